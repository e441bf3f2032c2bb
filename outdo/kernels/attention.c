/* Attention over whole rows, forth and back. */

/* C [MR, NR * 16] (+)= A B: A's pairs of numbers lie at A[m * row + p * step], B's at B[p * ldb + n]. */
INLINE void tile(const int MR, const int NR, long P, const uint32_t *A, long row, long step, const uint32_t *B, long ldb,
                 float *C, long ldc, int add) {
    floats total[8][3];
#pragma GCC unroll 8
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 3
        for (int n = 0; n < NR; n++) total[m][n] = add ? _mm512_loadu_ps(C + m * ldc + 16 * n) : _mm512_setzero_ps();
    for (long p = 0; p < P; p++) {
        __m512bh b[3];
#pragma GCC unroll 3
        for (int n = 0; n < NR; n++) b[n] = (__m512bh)_mm512_loadu_si512(B + p * ldb + 16 * n);
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++) {
            const __m512bh a = (__m512bh)_mm512_set1_epi32((int)A[m * row + p * step]);
#pragma GCC unroll 3
            for (int n = 0; n < NR; n++) total[m][n] = _mm512_dpbf16_ps(total[m][n], a, b[n]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 3
        for (int n = 0; n < NR; n++) _mm512_storeu_ps(C + m * ldc + 16 * n, total[m][n]);
}

INLINE void stripe(const int MR, const int NR, long M, long P, const uint32_t *A, long row, long step, const uint32_t *B,
                   long ldb, float *C, long ldc, int add) {
    long m = 0;
    for (; m + MR <= M; m += MR) tile(MR, NR, P, A + m * row, row, step, B, ldb, C + m * ldc, ldc, add);
    for (; m + 2 <= M; m += 2) tile(2, NR, P, A + m * row, row, step, B, ldb, C + m * ldc, ldc, add);
    if (m < M) tile(1, NR, P, A + m * row, row, step, B, ldb, C + m * ldc, ldc, add);
}

/* C [M, N] (+)= A B over 2 P numbers; N in sixteens. */
static void multiply(long M, long N, long P, const uint32_t *A, long row, long step, const uint32_t *B, long ldb, float *C,
                     long ldc, int add) {
    long n = 0;
    for (; n + 48 <= N; n += 48) stripe(8, 3, M, P, A, row, step, B + n, ldb, C + n, ldc, add);
    for (; n + 32 <= N; n += 32) stripe(8, 2, M, P, A, row, step, B + n, ldb, C + n, ldc, add);
    if (n < N) stripe(8, 1, M, P, A, row, step, B + n, ldb, C + n, ldc, add);
}

#define ROWS 16 /* queries that are computed together */

/* [T, d] with rows `stride` numbers apart -> pairs along d, transposed: [d / 2, apart(T)], zeros behind T. */
static void pairs_across(const bf16 *x, long stride, long T, long d, uint32_t *to) {
    const long Tp = apart(T);
    for (long t = 0; t < T; t += 16)
        for (long p = 0; p < d / 2; p += 16) {
            __m512i rows[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                rows[i] = t + i < T ? _mm512_maskz_loadu_epi32(first_of(d / 2 - p), (const uint32_t *)(x + (t + i) * stride) + p)
                                    : _mm512_setzero_si512();
            transpose(rows);
#pragma GCC unroll 16
            for (int j = 0; j < 16; j++)
                if (p + j < d / 2) _mm512_storeu_si512(to + (p + j) * Tp + t, rows[j]);
        }
}

/* One bit for each query and each key of its row [B, T]: whether the key is not behind the query, of its segment or of the one
   that this goes on from (parents, may be null: -2 for none), and less than `window` positions before it (0: any number;
   positions may be null: those in the row). bits [B, T, words of 16 keys]. */
void visible(const int32_t *segments, const int32_t *parents, const int32_t *positions, uint16_t *bits, long B, long T,
             long window, int threads) {
    const long words = up16(T) / 16;
#pragma omp parallel for num_threads(threads) schedule(static) if (B * T * words > SMALL)
    for (long r = 0; r < B * T; r++) {
        const long t = r % T, row = r - t;
        const __m512i own = _mm512_set1_epi32(segments[r]), parent = _mm512_set1_epi32(parents ? parents[r] : -2);
        for (long w = 0; w < words; w++) {
            const long n = t + 1 - 16 * w;
            const __mmask16 inside = first_of(n);
            const __m512i keys = _mm512_maskz_loadu_epi32(inside, segments + row + 16 * w);
            __mmask16 sees = _mm512_mask_cmpeq_epi32_mask(inside, keys, own) | _mm512_mask_cmpeq_epi32_mask(inside, keys, parent);
            if (window && positions) {
                const __m512i at = _mm512_maskz_loadu_epi32(inside, positions + row + 16 * w);
                sees &= _mm512_cmpgt_epi32_mask(at, _mm512_set1_epi32(positions[r] - (int32_t)window));
            } else if (window && n > window) {
                sees &= n - window >= 16 ? 0 : (__mmask16)(ALL << (n - window));
            }
            bits[r * words + w] = sees;
        }
    }
}

/* The first key, in sixteens, that any of the n queries sees. */
static long first_seen(const uint16_t *bits, long words, long n) {
    for (long w = 0; w < words; w++)
        for (long i = 0; i < n; i++)
            if (bits[i * words + w]) return 16 * w;
    return 0;
}

/* Attention over whole rows. qkv [B, T, (H + 2 K) * d], rotated and scaled; bits of `visible` [masks, T, .], masks 1 or B;
   every query sees itself. mixed [B, T, H * d]; normaliser [B, H, T]: log of the sum of the exponentials. d in sixteens. */
void attend_causal(const bf16 *qkv, const uint16_t *bits, bf16 *mixed, float *normaliser, long B, long T, long H, long K, long d,
                   long masks, int threads) {
    const long groups = H / K, width = (H + 2 * K) * d, Tp = apart(T), words = up16(T) / 16, half = Tp * d / 2;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (long task = 0; task < B * K; task++) {
        const long b = task / K, k = task % K;
        const bf16 *token = qkv + b * T * width;
        const uint16_t *mask = bits + (masks > 1 ? b * T * words : 0);
        uint32_t *const keys = (uint32_t *)borrow(2 * half + ROWS * (Tp + Tp / 2 + d)), *const values = keys + half;
        float *const scores = (float *)(values + half), *const out = scores + ROWS * Tp;
        bf16 *const weights = (bf16 *)(out + ROWS * d);
        pairs_across(token + (H + k) * d, width, T, d, keys);
        pair_rows(token + (H + K + k) * d, width, T, up16(T), d, values, d);
        for (long t = 0; t < T; t += ROWS) {
            const long n = T - t < ROWS ? T - t : ROWS, first = first_seen(mask + t * words, words, n),
                       seen = up16(t + n) - first;
            for (long h = k * groups; h < (k + 1) * groups; h++) {
                multiply(n, seen, d / 2, (const uint32_t *)(token + t * width + h * d), width / 2, 1, keys + first, Tp, scores,
                         Tp, 0);
                float total[ROWS];
                for (long i = 0; i < n; i++) {
                    const float *const s = scores + i * Tp;
                    const uint16_t *const sees = mask + (t + i) * words + first / 16;
                    floats most = all(-INFINITY), sum = _mm512_setzero_ps();
                    for (long u = 0; u < seen; u += 16)
                        most = _mm512_mask_max_ps(most, sees[u / 16], most, _mm512_loadu_ps(s + u));
                    const float highest = _mm512_reduce_max_ps(most);
                    for (long u = 0; u < seen; u += 16) {
                        const floats x = _mm512_sub_ps(_mm512_loadu_ps(s + u), all(highest));
                        const floats e = _mm512_maskz_mov_ps(sees[u / 16], exponential(x));
                        sum = _mm512_add_ps(sum, e);
                        store(weights + i * Tp + u, ALL, e);
                    }
                    total[i] = _mm512_reduce_add_ps(sum);
                    normaliser[(b * H + h) * T + t + i] = highest + logf(total[i]);
                }
                multiply(n, d, seen / 2, (const uint32_t *)weights, Tp / 2, 1, values + first / 2 * d, d, out, d, 0);
                for (long i = 0; i < n; i++)
                    for (long j = 0; j < d; j += 16)
                        store(mixed + (b * T + t + i) * H * d + h * d + j, ALL,
                              _mm512_mul_ps(_mm512_loadu_ps(out + i * d + j), all(1.0f / total[i])));
            }
        }
    }
}

/* From scores and the gradient of the weights, both [n, Tp], for n queries of one head: weights and the gradient of the scores,
   rounded, as pairs along the queries [n / 2, Tp] and, of the latter, [n, Tp] as it is. An odd n's last partner is 0. */
static void softmax_backward(long n, long seen, long Tp, const float *scores, const float *grad_p, const float *log_sum,
                             const float *mean, const uint16_t *sees, long words, uint32_t *p_along, uint32_t *ds_along,
                             bf16 *ds) {
    for (long i = 0; i < n; i += 2)
        for (long u = 0; u < seen; u += 16) {
            __m512i p[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()}, s[2] = {p[0], p[0]};
            for (long o = 0; o < 2 && i + o < n; o++) {
                const __mmask16 m = sees[(i + o) * words + u / 16];
                const long at = (i + o) * Tp + u;
                const floats x = _mm512_sub_ps(_mm512_loadu_ps(scores + at), all(log_sum[i + o]));
                const floats w = _mm512_maskz_mov_ps(m, exponential(x));
                const floats above = _mm512_sub_ps(_mm512_loadu_ps(grad_p + at), all(mean[i + o]));
                const __m256i grad = rounded(_mm512_maskz_mul_ps(m, w, above));
                _mm256_storeu_si256((__m256i *)(ds + at), grad);
                p[o] = _mm512_cvtepu16_epi32(rounded(w));
                s[o] = _mm512_cvtepu16_epi32(grad);
            }
            _mm512_storeu_si512(p_along + i / 2 * Tp + u, _mm512_or_si512(p[0], _mm512_slli_epi32(p[1], 16)));
            _mm512_storeu_si512(ds_along + i / 2 * Tp + u, _mm512_or_si512(s[0], _mm512_slli_epi32(s[1], 16)));
        }
}

/* Gradient of qkv before it was rotated, all of it written; grad [B, T, H * d]. The weights are computed again, not kept: T x T.
   turn [positions, d / 2] complex, positions T or B * T; null: there was no rotation. (Dao, 2307.08691, appendix B.) */
void attend_causal_backward(const bf16 *qkv, const uint16_t *bits, const float *turn, const bf16 *mixed, const float *normaliser,
                            const bf16 *grad, bf16 *grad_qkv, long B, long T, long H, long K, long d, long masks, long positions,
                            int threads) {
    const long groups = H / K, width = (H + 2 * K) * d, Tp = apart(T), words = up16(T) / 16, half = Tp * d / 2;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (long task = 0; task < B * K; task++) {
        const long b = task / K, k = task % K;
        const bf16 *token = qkv + b * T * width;
        const uint16_t *mask = bits + (masks > 1 ? b * T * words : 0);
        const float *places = turn ? turn + (positions > T ? b * T * d : 0) : NULL;
        uint32_t *const keys = (uint32_t *)borrow(3 * half + 2 * Tp * d + ROWS * (4 * Tp + 2 * d)), *const keys_along =
                                                                                                        keys + half;
        uint32_t *const values = keys_along + half;
        float *const grad_k = (float *)(values + half), *const grad_v = grad_k + Tp * d;
        float *const scores = grad_v + Tp * d, *const grad_p = scores + ROWS * Tp, *const grad_q = grad_p + ROWS * Tp;
        uint32_t *const q_along = (uint32_t *)(grad_q + ROWS * d), *const g_along = q_along + ROWS / 2 * d;
        uint32_t *const p_along = g_along + ROWS / 2 * d, *const ds_along = p_along + ROWS / 2 * Tp;
        bf16 *const ds = (bf16 *)(ds_along + ROWS / 2 * Tp);
        pairs_across(token + (H + k) * d, width, T, d, keys);
        pairs_across(token + (H + K + k) * d, width, T, d, values);
        pair_rows(token + (H + k) * d, width, T, up16(T), d, keys_along, d);
        memset(grad_k, 0, 2 * Tp * d * sizeof(float));
        for (long t = 0; t < T; t += ROWS) {
            const long n = T - t < ROWS ? T - t : ROWS, first = first_seen(mask + t * words, words, n),
                       seen = up16(t + n) - first;
            for (long h = k * groups; h < (k + 1) * groups; h++) {
                const bf16 *const q = token + t * width + h * d, *const g = grad + (b * T + t) * H * d + h * d;
                const bf16 *const out = mixed + (b * T + t) * H * d + h * d;
                multiply(n, seen, d / 2, (const uint32_t *)q, width / 2, 1, keys + first, Tp, scores, Tp, 0);
                multiply(n, seen, d / 2, (const uint32_t *)g, H * d / 2, 1, values + first, Tp, grad_p, Tp, 0);
                float mean[ROWS];
                for (long i = 0; i < n; i++) {
                    floats dot = _mm512_setzero_ps();
                    for (long j = 0; j < d; j += 16)
                        dot = _mm512_fmadd_ps(load(g + i * H * d + j, ALL), load(out + i * H * d + j, ALL), dot);
                    mean[i] = _mm512_reduce_add_ps(dot);
                }
                softmax_backward(n, seen, Tp, scores, grad_p, normaliser + (b * H + h) * T + t, mean,
                                 mask + t * words + first / 16, words, p_along, ds_along, ds);
                multiply(n, d, seen / 2, (const uint32_t *)ds, Tp / 2, 1, keys_along + first / 2 * d, d, grad_q, d, 0);
                for (long i = 0; i < n; i++)
                    turn_head_back(grad_q + i * d, places ? places + (t + i) * d : NULL,
                                   grad_qkv + (b * T + t + i) * width + h * d, d);
                pair_rows(q, width, n, up16(n), d, q_along, d);
                pair_rows(g, H * d, n, up16(n), d, g_along, d);
                multiply(seen, d, (n + 1) / 2, ds_along, 1, Tp, q_along, d, grad_k + first * d, d, 1);
                multiply(seen, d, (n + 1) / 2, p_along, 1, Tp, g_along, d, grad_v + first * d, d, 1);
            }
        }
        for (long t = 0; t < T; t++) {
            bf16 *const to = grad_qkv + (b * T + t) * width;
            turn_head_back(grad_k + t * d, places ? places + t * d : NULL, to + (H + k) * d, d);
            turn_head_back(grad_v + t * d, NULL, to + (H + K + k) * d, d);
        }
    }
}
