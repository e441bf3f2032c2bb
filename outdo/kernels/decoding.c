/* Decoding: attention of a few new tokens of each row to keys and values in a cache. */

/* softmax(q key') value for G heads that share their keys: q and out [G, d], key and value [n, d], d = 32 D, G and D at most 4.
   scores: room for G * (n + 1). */
INLINE void attend_heads(const int D, const int G, const bf16 *q, const bf16 *key, const bf16 *value, bf16 *out, long n,
                         float *scores) {
    const long d = 32 * D, stride = n + 1;
    __m512bh query[4][4];
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
        for (int j = 0; j < D; j++) query[g][j] = (__m512bh)_mm512_loadu_si512(q + g * d + 32 * j);
    for (long u = 0; u < n; u++) {
        for (long j = 0; j < d; j += 32) { /* the cache lies in main memory: ask for what comes next */
            _mm_prefetch((const char *)(key + (u + AHEAD) * d + j), _MM_HINT_T0);
            _mm_prefetch((const char *)(value + u * d + j), _MM_HINT_T0);
        }
        __m512bh row[4];
#pragma GCC unroll 4
        for (int j = 0; j < D; j++) row[j] = (__m512bh)_mm512_loadu_si512(key + u * d + 32 * j);
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) {
            floats dot = _mm512_setzero_ps();
#pragma GCC unroll 4
            for (int j = 0; j < D; j++) dot = _mm512_dpbf16_ps(dot, query[g][j], row[j]);
            scores[g * stride + u] = _mm512_reduce_add_ps(dot);
        }
    }
    float scale[4];
    for (int g = 0; g < G; g++) { /* the weights, rounded, where the scores were */
        float *const s = scores + g * stride;
        bf16 *const weights = (bf16 *)s;
        floats most = all(-INFINITY), sum = _mm512_setzero_ps();
        SIXTEENS(u, m, n, most = _mm512_mask_max_ps(most, m, most, _mm512_maskz_loadu_ps(m, s + u)););
        const floats highest = all(_mm512_reduce_max_ps(most));
        SIXTEENS(u, m, n, const floats e = exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, s + u), highest));
                 sum = _mm512_mask_add_ps(sum, m, sum, e); store(weights + u, m, e););
        weights[n] = 0;
        scale[g] = 1.0f / _mm512_reduce_add_ps(sum);
    }
    floats low[4][4], high[4][4];
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
        for (int j = 0; j < D; j++) low[g][j] = high[g][j] = _mm512_setzero_ps();
    for (long u = 0; u < n; u += 2) { /* pairs of rows; of an odd last one the partner counts with weight 0 */
        const bf16 *even = value + u * d, *odd = u + 1 < n ? even + d : even;
        int weight[4];
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) memcpy(&weight[g], (const bf16 *)(scores + g * stride) + u, 4);
#pragma GCC unroll 4
        for (int j = 0; j < D; j++) {
            const __m512i a = _mm512_loadu_si512(even + 32 * j), b = _mm512_loadu_si512(odd + 32 * j);
            const __m512bh first = (__m512bh)_mm512_unpacklo_epi16(a, b), second = (__m512bh)_mm512_unpackhi_epi16(a, b);
#pragma GCC unroll 4
            for (int g = 0; g < G; g++) {
                const __m512bh w = (__m512bh)_mm512_set1_epi32(weight[g]);
                low[g][j] = _mm512_dpbf16_ps(low[g][j], w, first);
                high[g][j] = _mm512_dpbf16_ps(high[g][j], w, second);
            }
        }
    }
    const __m512i front =
        _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23); /* unpacking works on quarters */
    const __m512i back = _mm512_add_epi32(front, _mm512_set1_epi32(8));
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
        for (int j = 0; j < D; j++) {
            const floats by = all(scale[g]);
            store(out + g * d + 32 * j, ALL, _mm512_mul_ps(_mm512_permutex2var_ps(low[g][j], front, high[g][j]), by));
            store(out + g * d + 32 * j + 16, ALL, _mm512_mul_ps(_mm512_permutex2var_ps(low[g][j], back, high[g][j]), by));
        }
}

INLINE void attend_groups(const int D, const bf16 *q, const bf16 *key, const bf16 *value, bf16 *out, long groups, long n,
                          float *scores) {
    long g = 0;
    for (; g + 4 <= groups; g += 4) attend_heads(D, 4, q + 32 * D * g, key, value, out + 32 * D * g, n, scores);
    switch (groups - g) {
    case 3: attend_heads(D, 3, q + 32 * D * g, key, value, out + 32 * D * g, n, scores); break;
    case 2: attend_heads(D, 2, q + 32 * D * g, key, value, out + 32 * D * g, n, scores); break;
    case 1: attend_heads(D, 1, q + 32 * D * g, key, value, out + 32 * D * g, n, scores);
    }
}

/* Attention of C new tokens of each row to what its slot of the cache holds, after their own keys and values were added to it.

   qkv [rows, C, (H + 2 K) * d], not rotated yet; keys and values [slots, K, capacity, d]; row r sits in slots[r] (null: r), its
   tokens begin at position starts[r]. A token sees its own position and those before it, `window` at most (0: all).
   turn [positions, d / 2] complex, null: no rotation. mixed [rows, C, H * d]. d is 32, 64 or 128. */
void attend_cached(const bf16 *qkv, const float *turn, const long *starts, const long *slots, bf16 *keys, bf16 *values,
                   bf16 *mixed, long rows, long C, long H, long K, long d, long capacity, long positions, long window,
                   int threads) {
    const long groups = H / K, width = (H + 2 * K) * d;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4) if (rows * K > 4)
    for (long task = 0; task < rows * K; task++) {
        const long r = task / K, k = task % K, slot = (slots ? slots[r] : r) * K + k, start = starts[r];
        bf16 *const key = keys + slot * capacity * d, *const value = values + slot * capacity * d;
        float *const scores = borrow(4 * (capacity + 1) + groups * d);
        bf16 *const q = (bf16 *)(scores + 4 * (capacity + 1));
        for (long c = 0; c < C; c++) {
            const bf16 *token = qkv + (r * C + c) * width;
            const long at = start + c, place = at < positions ? at : positions - 1; /* only padding lies beyond */
            turn_head(token + (H + k) * d, turn ? turn + place * d : NULL, key + at * d, d);
            memcpy(value + at * d, token + (H + K + k) * d, d * sizeof(bf16));
        }
        for (long c = 0; c < C; c++) {
            const bf16 *token = qkv + (r * C + c) * width;
            const long at = start + c, place = at < positions ? at : positions - 1;
            const long first = window && at >= window ? at - window + 1 : 0, n = at + 1 - first;
            for (long g = 0; g < groups; g++)
                turn_head(token + (k * groups + g) * d, turn ? turn + place * d : NULL, q + g * d, d);
            bf16 *const out = mixed + (r * C + c) * H * d + k * groups * d;
            if (d == 32) attend_groups(1, q, key + first * d, value + first * d, out, groups, n, scores);
            else if (d == 64)
                attend_groups(2, q, key + first * d, value + first * d, out, groups, n, scores);
            else
                attend_groups(4, q, key + first * d, value + first * d, out, groups, n, scores);
        }
    }
}
