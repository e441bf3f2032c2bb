/* What eager PyTorch does slowly on a CPU: the pieces between a decoder's large matrix products, each in one walk over memory, and
   products of few rows.

   For bf16 (the upper halves of float32 numbers) on processors with AVX-512 and its bf16 products; elsewhere this file is empty
   and PyTorch computes. Sums, norms and softmax are float32. Tasks are independent of each other and each goes in one order: the
   results do not depend on the number of threads. Compiled at first use, see __init__.py. */

#ifdef __AVX512BF16__
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AHEAD 16        /* rows */
#define SMALL (1 << 14) /* numbers: less is not worth a second thread */
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;
typedef __m512 floats; /* sixteen */

/* --- sixteen numbers at a time; m: which of them there are --- */

#define ALL ((__mmask16)0xffff)

INLINE floats load(const bf16 *x, __mmask16 m) {
    const __m256i bits = m == ALL ? _mm256_loadu_si256((const __m256i *)x) : _mm256_maskz_loadu_epi16(m, x);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

INLINE __m256i rounded(floats x) { return (__m256i)_mm512_cvtneps_pbh(x); }

INLINE void store(bf16 *to, __mmask16 m, floats x) {
    if (m == ALL) _mm256_storeu_si256((__m256i *)to, rounded(x));
    else
        _mm256_mask_storeu_epi16(to, m, rounded(x));
}

INLINE floats all(float x) { return _mm512_set1_ps(x); }

INLINE __mmask16 first_of(long n) { return n >= 16 ? ALL : n <= 0 ? 0 : (__mmask16)(ALL >> (16 - n)); }

#define SIXTEENS(i, m, n, ...)                                                                                                   \
    do {                                                                                                                         \
        long i = 0;                                                                                                              \
        for (; i + 16 <= (n); i += 16) {                                                                                         \
            const __mmask16 m = ALL;                                                                                             \
            __VA_ARGS__                                                                                                          \
        }                                                                                                                        \
        if (i < (n)) {                                                                                                           \
            const __mmask16 m = first_of((n) - i);                                                                               \
            __VA_ARGS__                                                                                                          \
        }                                                                                                                        \
    } while (0)

/* e^x to 3e-6 of itself: 2^floor times a polynomial of what is left. e^-inf is 0, NaN stays NaN. */
INLINE floats exponential(floats x) {
    const floats t = _mm512_mul_ps(x, all(1.44269504f)), r = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    floats p = _mm512_fmadd_ps(all(0.013534147292375565f), r, all(0.05201150104403496f));
    p = _mm512_fmadd_ps(p, r, all(0.2414427399635315f));
    p = _mm512_fmadd_ps(p, r, all(0.6930038332939148f));
    p = _mm512_fmadd_ps(p, r, all(1.0000026226043701f));
    return _mm512_scalef_ps(p, t);
}

/* 1 / (1 + e^-x) to 1e-4 of itself. */
INLINE floats sigmoid(floats x) {
    return _mm512_rcp14_ps(_mm512_add_ps(all(1.0f), exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

/* x in neighbouring pairs times eight complex numbers, or times their conjugates. */
INLINE floats turned(floats x, floats turn) {
    return _mm512_fmaddsub_ps(x, _mm512_moveldup_ps(turn), _mm512_mul_ps(_mm512_permute_ps(x, 0xb1), _mm512_movehdup_ps(turn)));
}

INLINE floats turned_back(floats x, floats turn) {
    return _mm512_fmsubadd_ps(x, _mm512_moveldup_ps(turn), _mm512_mul_ps(_mm512_permute_ps(x, 0xb1), _mm512_movehdup_ps(turn)));
}

INLINE long up16(long n) { return (n + 15) / 16 * 16; }

/* How far apart rows of n words are kept: an odd number of cache lines, or their columns would fight for the same few places. */
INLINE long apart(long n) { return (up16(n) / 16 | 1) * 16; }

/* Sixteen rows of sixteen words become columns. */
INLINE void transpose(__m512i *rows) {
    __m512i pairs[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) { /* words, then pairs of words, within quarters of a register; then the quarters */
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            rows[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + 2 + j]);
            rows[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + 2 + j]);
        }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512i low = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0x88), high = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0x88),
                      high2 = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0xdd);
        pairs[j] = _mm512_shuffle_i32x4(low, low2, 0x88), pairs[8 + j] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        pairs[4 + j] = _mm512_shuffle_i32x4(high, high2, 0x88), pairs[12 + j] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) rows[i] = pairs[i];
}

/* A thread's own memory, at least n floats; what was in it is lost. */
static float *borrow(size_t n) {
    static _Thread_local float *memory;
    static _Thread_local size_t size;
    if (n > size) {
        free(memory);
        size = (n + n / 2 + 1023) / 1024 * 1024;
        memory = aligned_alloc(64, size * sizeof(float));
        if (!memory) abort();
    }
    return memory;
}

/* --- element-wise --- */

/* sum = x + add (add may be null: then sum is x and not written), y = sum / root of mean(sum^2) + eps. Returns 1 / root. */
INLINE float normalize_row(const bf16 *x, const bf16 *add, bf16 *sum, bf16 *y, long width, float eps) {
    const bf16 *in = x;
    floats square = _mm512_setzero_ps();
    if (add) {
        SIXTEENS(i, m, width, store(sum + i, m, _mm512_add_ps(load(in + i, m), load(add + i, m)));
                 const floats s = load(sum + i, m); square = _mm512_fmadd_ps(s, s, square););
        in = sum;
    } else {
        SIXTEENS(i, m, width, const floats s = load(in + i, m); square = _mm512_fmadd_ps(s, s, square););
    }
    const float scale = 1.0f / sqrtf(_mm512_reduce_add_ps(square) / (float)width + eps);
    SIXTEENS(i, m, width, store(y + i, m, _mm512_mul_ps(load(in + i, m), all(scale))););
    return scale;
}

/* Gradient of the sum: of y through the norm, and grad_sum (may be null) beside it. */
INLINE void normalize_row_backward(const bf16 *g, const bf16 *grad_sum, const bf16 *y, float inverse, bf16 *grad, long width) {
    floats along = _mm512_setzero_ps();
    SIXTEENS(i, m, width, along = _mm512_fmadd_ps(load(g + i, m), load(y + i, m), along););
    const floats mean = all(_mm512_reduce_add_ps(along) / (float)width), scale = all(inverse);
    if (grad_sum)
        SIXTEENS(i, m, width, const floats d = _mm512_fnmadd_ps(load(y + i, m), mean, load(g + i, m));
                 store(grad + i, m, _mm512_fmadd_ps(d, scale, load(grad_sum + i, m))););
    else
        SIXTEENS(i, m, width, const floats d = _mm512_fnmadd_ps(load(y + i, m), mean, load(g + i, m));
                 store(grad + i, m, _mm512_mul_ps(d, scale)););
}

/* x [2 * width]: silu of its first half times its second. */
INLINE void swiglu_row(const bf16 *gate, bf16 *y, long width) {
    const bf16 *up = gate + width;
    SIXTEENS(i, m, width, const floats g = load(gate + i, m), u = load(up + i, m);
             store(y + i, m, _mm512_mul_ps(_mm512_mul_ps(g, sigmoid(g)), u)););
}

/* y as above once more, and the gradient of x. */
INLINE void swiglu_row_backward(const bf16 *gate, const bf16 *grad, bf16 *y, bf16 *grad_gate, long width) {
    const bf16 *up = gate + width;
    bf16 *grad_up = grad_gate + width;
    SIXTEENS(i, m, width, const floats g = load(gate + i, m), u = load(up + i, m), d = load(grad + i, m), s = sigmoid(g),
             silu = _mm512_mul_ps(g, s);
             const floats slope = _mm512_fmadd_ps(silu, _mm512_sub_ps(all(1.0f), s), s);
             store(y + i, m, _mm512_mul_ps(silu, u));
             store(grad_gate + i, m, _mm512_mul_ps(_mm512_mul_ps(d, u), slope));
             store(grad_up + i, m, _mm512_mul_ps(d, silu)););
}

void normalize(const bf16 *x, const bf16 *add, bf16 *sum, bf16 *y, float *inverse, long rows, long width, float eps,
               int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * width > SMALL)
    for (long r = 0; r < rows; r++) {
        const long at = r * width;
        inverse[r] = normalize_row(x + at, add ? add + at : NULL, add ? sum + at : NULL, y + at, width, eps);
    }
}

void normalize_backward(const bf16 *grad_y, const bf16 *grad_sum, const bf16 *y, const float *inverse, bf16 *grad, long rows,
                        long width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * width > SMALL)
    for (long r = 0; r < rows; r++) {
        const long at = r * width;
        normalize_row_backward(grad_y + at, grad_sum ? grad_sum + at : NULL, y + at, inverse[r], grad + at, width);
    }
}

void swiglu(const bf16 *x, bf16 *y, long rows, long width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * width > SMALL)
    for (long r = 0; r < rows; r++) swiglu_row(x + 2 * r * width, y + r * width, width);
}

void swiglu_backward(const bf16 *x, const bf16 *grad_y, bf16 *y, bf16 *grad_x, long rows, long width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * width > SMALL)
    for (long r = 0; r < rows; r++)
        swiglu_row_backward(x + 2 * r * width, grad_y + r * width, y + r * width, grad_x + 2 * r * width, width);
}

/* --- parameters and compute weights --- */

#define BLOCK 64 /* rows whose sums are taken one after the other */

/* Where row r of a matrix lies when the halves of each head of d rows become neighbours; d 0: where it was. */
INLINE long paired(long r, long d) { return d ? r / d * d + r % d % (d / 2) * 2 + r % d / (d / 2) : r; }

/* out [rows, width]: weight's columns times norm (null: 1), times scale, its rows in pairs. */
void pack_rows(const float *weight, const float *norm, bf16 *out, long rows, long width, long d, float scale, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * width > SMALL)
    for (long r = 0; r < rows; r++) {
        const float *const w = weight + r * width;
        bf16 *const to = out + paired(r, d) * width;
        SIXTEENS(i, m, width, floats x = _mm512_maskz_loadu_ps(m, w + i);
                 if (norm) x = _mm512_mul_ps(x, _mm512_maskz_loadu_ps(m, norm + i));
                 store(to + i, m, _mm512_mul_ps(x, all(scale))););
    }
}

/* The way back: gradients of the weight and, summed over blocks of rows, of norm: grad_norm [blocks, width] (null: not wanted). */
void pack_rows_backward(const bf16 *grad, const float *weight, const float *norm, float *grad_weight, float *grad_norm, long rows,
                        long width, long d, float scale, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * width > SMALL)
    for (long block = 0; block < (rows + BLOCK - 1) / BLOCK; block++) {
        float *const sum = grad_norm ? grad_norm + block * width : NULL;
        if (sum) memset(sum, 0, width * sizeof(float));
        for (long r = block * BLOCK; r < rows && r < (block + 1) * BLOCK; r++) {
            const float *const w = weight + r * width;
            const bf16 *const from = grad + paired(r, d) * width;
            SIXTEENS(i, m, width, const floats g = _mm512_mul_ps(load(from + i, m), all(scale));
                     if (sum) _mm512_mask_storeu_ps(sum + i, m, _mm512_fmadd_ps(g, _mm512_maskz_loadu_ps(m, w + i),
                                                                                _mm512_maskz_loadu_ps(m, sum + i)));
                     _mm512_mask_storeu_ps(grad_weight + r * width + i, m,
                                           norm ? _mm512_mul_ps(g, _mm512_maskz_loadu_ps(m, norm + i)) : g););
        }
    }
}

/* x [d] in pairs times turn [d / 2] complex (null: as it is); d in sixteens. */
static void turn_head(const bf16 *x, const float *turn, bf16 *to, long d) {
    if (turn)
        for (long j = 0; j < d; j += 16) store(to + j, ALL, turned(load(x + j, ALL), _mm512_loadu_ps(turn + j)));
    else if (to != x)
        memcpy(to, x, d * sizeof(bf16));
}

static void turn_head_back(const float *x, const float *turn, bf16 *to, long d) {
    for (long j = 0; j < d; j += 16) {
        const floats y = _mm512_loadu_ps(x + j);
        store(to + j, ALL, turn ? turned_back(y, _mm512_loadu_ps(turn + j)) : y);
    }
}

/* Rotary positions: the first `heads` heads of each row of x [rows, width], in place; turn [positions, d / 2] complex, again from
   its first position when it ends. */
void rotate(bf16 *x, const float *turn, long rows, long positions, long width, long heads, long d, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * heads * d > SMALL)
    for (long r = 0; r < rows; r++)
        for (long h = 0; h < heads; h++) turn_head(x + r * width + h * d, turn + r % positions * d, x + r * width + h * d, d);
}

/* --- decoding: a few new tokens for each row, keys and values in a cache --- */

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

/* --- products of few rows with large matrices --- */

#define PANEL 48 /* columns of a product that are computed together: 8 rows of them fill 24 registers */

/* Weight [F, D] -> panels [ceil(F / 48), D / 2, 48] of pairs along D, in the order in which `multiply_panels` reads them: the one
   with columns from f on. */
static void pack_panel(const bf16 *weight, uint32_t *panels, long f, long F, long D) {
    for (long j = 0; j < PANEL; j += 16)
        for (long p = 0; p < D / 2; p += 16) {
            __m512i rows[16];
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                rows[i] = f + j + i < F ? _mm512_maskz_loadu_epi32(first_of(D / 2 - p), (const uint32_t *)(weight + (f + j + i) * D) + p)
                                        : _mm512_setzero_si512();
            transpose(rows);
#pragma GCC unroll 16
            for (int i = 0; i < 16; i++)
                if (p + i < D / 2) _mm512_storeu_si512(panels + f * D / 2 + (p + i) * PANEL + j, rows[i]);
        }
}

/* The same of a weight [D, F] as it multiplies from the right: pairs along its rows. */
static void pack_panel_across(const bf16 *weight, uint32_t *panels, long f, long F, long D) {
    for (long p = 0; p < D / 2; p++)
        for (long j = 0; j < PANEL; j += 16) {
            const __mmask16 m = first_of(F - f - j);
            const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, weight + 2 * p * F + f + j));
            const __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, weight + (2 * p + 1) * F + f + j));
            _mm512_storeu_si512(panels + f * D / 2 + p * PANEL + j, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
}

void pack_panels(const bf16 *weight, uint32_t *panels, long F, long D, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (F * D > SMALL)
    for (long f = 0; f < F; f += PANEL) pack_panel(weight, panels, f, F, D);
}

void pack_panels_across(const bf16 *weight, uint32_t *panels, long F, long D, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (F * D > SMALL)
    for (long f = 0; f < F; f += PANEL) pack_panel_across(weight, panels, f, F, D);
}

/* What a product is added to: `scale` times the sum of the product and `ratio` times these rows, `stride` numbers apart (0: the
   same for all rows; rows may be null). */
typedef struct {
    const bf16 *rows;
    long stride;
    float ratio, scale;
} Start;

/* y [MR, n] = x [MR, D] times a panel, of which NR sixteens count, on top of `start`. ask: for the panel behind it, which lies in
   main memory. */
INLINE void panel_tile(const int MR, const int NR, const int ask, const uint32_t *x, const uint32_t *panel, const Start start,
                       long m0, long f, bf16 *y, long n, long F, long D) {
    floats total[8][3];
    x += m0 * D / 2, y += m0 * F + f;
#pragma GCC unroll 8
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 3
        for (int j = 0; j < NR; j++) {
            const bf16 *const at = start.rows + (m0 + m) * start.stride + f + 16 * j;
            total[m][j] = start.rows && 16 * j < n ? _mm512_mul_ps(all(start.ratio), load(at, first_of(n - 16 * j)))
                                                   : _mm512_setzero_ps();
        }
    for (long p = 0; p < D / 2; p++, panel += PANEL) {
        __m512bh b[3];
#pragma GCC unroll 3
        for (int j = 0; j < NR; j++) {
            if (ask) _mm_prefetch((const char *)(panel + D / 2 * PANEL + 16 * j), _MM_HINT_T1);
            b[j] = (__m512bh)_mm512_loadu_si512(panel + 16 * j);
        }
#pragma GCC unroll 8
        for (int m = 0; m < MR; m++) {
            const __m512bh a = (__m512bh)_mm512_set1_epi32((int)x[m * D / 2 + p]);
#pragma GCC unroll 3
            for (int j = 0; j < NR; j++) total[m][j] = _mm512_dpbf16_ps(total[m][j], a, b[j]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 3
        for (int j = 0; j < NR; j++)
            if (n > 16 * j)
                store(y + m * F + 16 * j, first_of(n - 16 * j), _mm512_mul_ps(all(start.scale), total[m][j]));
}

/* All rows times one panel. ask: in the first tile; for the others it is there. */
INLINE void panel_stripe(const int NR, const int ask, const uint32_t *x, const uint32_t *panel, const Start start, long f, bf16 *y,
                         long n, long M, long F, long D) {
    long m = 0;
    if (ask && M >= 8) panel_tile(8, NR, 1, x, panel, start, 0, f, y, n, F, D), m = 8;
    for (; m + 8 <= M; m += 8) panel_tile(8, NR, 0, x, panel, start, m, f, y, n, F, D);
    for (; m + 4 <= M; m += 4) panel_tile(4, NR, ask && M < 8, x, panel, start, m, f, y, n, F, D);
    for (; m < M; m++) panel_tile(1, NR, ask && M < 4, x, panel, start, m, f, y, n, F, D);
}

/* Columns from f on, one panel of them, of y [M, F] = x [M, D] W' on top of `start`. */
INLINE void multiply_panel(const int ask, const bf16 *x, const uint32_t *panels, const Start start, bf16 *y, long f, long M, long F,
                           long D) {
    const long n = F - f < PANEL ? F - f : PANEL;
    const uint32_t *const in = (const uint32_t *)x, *const panel = panels + f * D / 2;
    if (n > 32) panel_stripe(3, ask, in, panel, start, f, y, n, M, F, D);
    else if (n > 16)
        panel_stripe(2, ask, in, panel, start, f, y, n, M, F, D);
    else
        panel_stripe(1, ask, in, panel, start, f, y, n, M, F, D);
}

/* y [M, F] = x [M, D] W' + bias (may be null), W [F, D] in panels. */
void multiply_panels(const bf16 *x, const uint32_t *panels, const bf16 *bias, bf16 *y, long M, long F, long D, int threads) {
    const Start start = {bias, 0, 1.0f, 1.0f};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long f = 0; f < F; f += PANEL) multiply_panel(1, x, panels, start, y, f, M, F, D);
}

/* What will be read or written next, asked for bit by bit while something else is computed. */
typedef struct {
    const char *at[12], *end[12];
    int n, now;
} Ahead;

static void announce(Ahead *ahead, const void *from, long numbers) {
    if (from) ahead->at[ahead->n] = from, ahead->end[ahead->n++] = (const char *)((const bf16 *)from + numbers);
}

INLINE void ask(Ahead *ahead, long lines) {
    for (; lines > 0 && ahead->now < ahead->n; lines--) {
        _mm_prefetch(ahead->at[ahead->now], _MM_HINT_T1);
        if ((ahead->at[ahead->now] += 64) >= ahead->end[ahead->now]) ahead->now++;
    }
}

static void multiply_rows_asking(const bf16 *x, const uint32_t *panels, bf16 *y, long M, long F, long D, Ahead *ahead, long lines) {
    for (long f = 0; f < F; f += PANEL) {
        ask(ahead, lines);
        multiply_panel(0, x, panels, (Start){NULL, 0, 1.0f, 1.0f}, y, f, M, F, D);
    }
}

static void multiply_onto(const bf16 *x, const uint32_t *panels, const Start start, bf16 *y, long M, long F, long D) {
    for (long f = 0; f < F; f += PANEL) multiply_panel(0, x, panels, start, y, f, M, F, D);
}

static void multiply_rows(const bf16 *x, const uint32_t *panels, bf16 *y, long M, long F, long D) {
    for (long f = 0; f < F; f += PANEL) multiply_panel(0, x, panels, (Start){NULL, 0, 1.0f, 1.0f}, y, f, M, F, D);
}

/* --- gradients of small weights: many rows summed up --- */

#define DEEP 128 /* rows that are summed before the sums go back to memory */

/* C [8, 16 NR] += A' B for pairs of rows: A [pairs, .] at a distance of lda words, B a panel. */
INLINE void outer_tile(const int NR, long pairs, const uint32_t *A, long lda, const uint32_t *panel, float *C, long ldc) {
    floats total[8][3];
#pragma GCC unroll 8
    for (int m = 0; m < 8; m++)
#pragma GCC unroll 3
        for (int j = 0; j < NR; j++) total[m][j] = _mm512_loadu_ps(C + m * ldc + 16 * j);
    for (long p = 0; p < pairs; p++, A += lda, panel += PANEL) {
        __m512bh b[3];
#pragma GCC unroll 3
        for (int j = 0; j < NR; j++) b[j] = (__m512bh)_mm512_loadu_si512(panel + 16 * j);
#pragma GCC unroll 8
        for (int m = 0; m < 8; m++) {
            const __m512bh a = (__m512bh)_mm512_set1_epi32((int)A[m]);
#pragma GCC unroll 3
            for (int j = 0; j < NR; j++) total[m][j] = _mm512_dpbf16_ps(total[m][j], a, b[j]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < 8; m++)
#pragma GCC unroll 3
        for (int j = 0; j < NR; j++) _mm512_storeu_ps(C + m * ldc + 16 * j, total[m][j]);
}

/* to [n / 2, width rounded up to sixteens]: neighbouring rows of x in pairs, n even or the last one's partner 0; lda words apart. */
static void pair_rows(const bf16 *x, long stride, long n, long width, uint32_t *to, long lda) {
    for (long t = 0; t < n; t += 2)
        for (long j = 0; j < width; j += 16) {
            const __mmask16 m = first_of(width - j);
            const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, x + t * stride + j));
            const __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(t + 1 < n ? m : 0, x + (t + 1) * stride + j));
            _mm512_storeu_si512(to + t / 2 * lda + j, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
}

/* out [F, D] = grad' x, grad [rows, F], x [rows, D]. */
void outer(const bf16 *grad, const bf16 *x, bf16 *out, long rows, long F, long D, int threads) {
    const long part = ((F + threads - 1) / threads + 7) / 8 * 8;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long f = 0; f < F; f += part) {
        const long own = F - f < part ? F - f : part, ldc = up16(D), lda = apart(own);
        const long lines = DEEP * (F + D) / 32 / ((D + PANEL - 1) / PANEL * ((own + 7) / 8)) + 1;
        float *const C = borrow(up16(own) * ldc + DEEP / 2 * (lda + PANEL));
        uint32_t *const pairs = (uint32_t *)(C + up16(own) * ldc), *const panel = pairs + DEEP / 2 * lda;
        memset(C, 0, up16(own) * ldc * sizeof(float));
        for (long t = 0; t < rows; t += DEEP) {
            const long n = rows - t < DEEP ? rows - t : DEEP;
            pair_rows(grad + t * F + f, F, n, own, pairs, lda);
            Ahead ahead = {.n = 0, .now = 0};
            const long more = rows - t - DEEP < DEEP ? rows - t - DEEP : DEEP;
            if (more > 0) announce(&ahead, grad + (t + DEEP) * F + f, (more - 1) * F + own), announce(&ahead, x + (t + DEEP) * D, more * D);
            for (long d = 0; d < D; d += PANEL) {
                const long wide = D - d < PANEL ? D - d : PANEL;
                pair_rows(x + t * D + d, D, n, wide, panel, PANEL);
                for (long m = 0; m < own; m += 8) {
                    ask(&ahead, lines);
                    if (wide > 32) outer_tile(3, (n + 1) / 2, pairs + m, lda, panel, C + m * ldc + d, ldc);
                    else if (wide > 16)
                        outer_tile(2, (n + 1) / 2, pairs + m, lda, panel, C + m * ldc + d, ldc);
                    else
                        outer_tile(1, (n + 1) / 2, pairs + m, lda, panel, C + m * ldc + d, ldc);
                }
            }
        }
        for (long m = 0; m < own; m++) SIXTEENS(i, k, D, store(out + (f + m) * D + i, k, _mm512_loadu_ps(C + m * ldc + i)););
    }
}

/* --- what a layer does behind its attention, for a few rows at a time: what lies between the products stays in the cache --- */

#define TOGETHER 32 /* rows */

/* mixed [rows, A], x [rows, D]; o, gate_up and down: panels of [D, A], [2 F, D] and [D, F]. first = x + mixed o', y1 and inverse1
   as `normalize` has them of first, inner = y1 gate_up', total = first + swiglu(inner) down', y and inverse of total. y1, inverse1
   and inner [rows, 2 F] may be null: the way back needs them. */
void after_attention(const bf16 *x, const bf16 *mixed, const uint32_t *o, const uint32_t *gate_up, const uint32_t *down, bf16 *y1,
                     float *inverse1, bf16 *inner, bf16 *total, bf16 *y, float *inverse, long rows, long D, long A, long F,
                     float eps, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (long r = 0; r < rows; r += TOGETHER) {
        const long n = rows - r < TOGETHER ? rows - r : TOGETHER;
        bf16 *const part = (bf16 *)borrow(TOGETHER * (3 * D + 3 * F) / 2 + 1), *const first = part + TOGETHER * D;
        bf16 *const normed = y1 ? y1 + r * D : first + TOGETHER * D, *const hidden = first + 2 * TOGETHER * D;
        bf16 *const wide = inner ? inner + 2 * r * F : hidden + TOGETHER * F;
        Ahead ahead = {.n = 0, .now = 0};
        const long s = r + threads * TOGETHER, more = rows - s < TOGETHER ? rows - s : TOGETHER;
        if (more > 0) {
            announce(&ahead, mixed + s * A, more * A), announce(&ahead, x + s * D, more * D);
            announce(&ahead, y1 ? y1 + s * D : NULL, more * D), announce(&ahead, inner ? inner + 2 * s * F : NULL, more * 2 * F);
            announce(&ahead, total + s * D, more * D), announce(&ahead, y + s * D, more * D);
        }
        const long lines = TOGETHER * (A + 4 * D + 2 * F) / 32 / ((2 * F + D) / PANEL) + 1;
        multiply_rows(mixed + r * A, o, part, n, D, A);
        for (long i = 0; i < n; i++) {
            const float root = normalize_row(x + (r + i) * D, part + i * D, first + i * D, normed + i * D, D, eps);
            if (inverse1) inverse1[r + i] = root;
        }
        multiply_rows_asking(normed, gate_up, wide, n, 2 * F, D, &ahead, lines);
        for (long i = 0; i < n; i++) swiglu_row(wide + 2 * i * F, hidden + i * F, F);
        multiply_rows_asking(hidden, down, part, n, D, F, &ahead, lines);
        for (long i = 0; i < n; i++) {
            const long at = (r + i) * D;
            const float root = normalize_row(first + i * D, part + i * D, total + at, y + at, D, eps);
            if (inverse) inverse[r + i] = root;
        }
    }
}

/* The way back, from the gradients of y and total (the latter may be null). o, gate_up, down: panels of the transposed weights.
   grad_total and grad_first of what `normalize` summed, hidden = swiglu(inner), grad_inner and grad_mixed. */
void after_attention_backward(const bf16 *grad_y, const bf16 *beside, const uint32_t *o, const uint32_t *gate_up,
                              const uint32_t *down, const bf16 *y1, const float *inverse1, const bf16 *inner, const bf16 *y,
                              const float *inverse, bf16 *grad_total, bf16 *hidden, bf16 *grad_inner, bf16 *grad_first,
                              bf16 *grad_mixed, long rows, long D, long A, long F, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (long r = 0; r < rows; r += TOGETHER) {
        const long n = rows - r < TOGETHER ? rows - r : TOGETHER;
        bf16 *const part = (bf16 *)borrow(TOGETHER * (D + F) / 2 + 1), *const grad_hidden = part + TOGETHER * D;
        Ahead ahead = {.n = 0, .now = 0};
        const long s = r + threads * TOGETHER, more = rows - s < TOGETHER ? rows - s : TOGETHER;
        if (more > 0) {
            announce(&ahead, grad_y + s * D, more * D), announce(&ahead, beside ? beside + s * D : NULL, more * D);
            announce(&ahead, y + s * D, more * D), announce(&ahead, inner + 2 * s * F, more * 2 * F);
            announce(&ahead, y1 + s * D, more * D), announce(&ahead, grad_total + s * D, more * D);
            announce(&ahead, hidden + s * F, more * F), announce(&ahead, grad_inner + 2 * s * F, more * 2 * F);
            announce(&ahead, grad_first + s * D, more * D), announce(&ahead, grad_mixed + s * A, more * A);
        }
        const long lines = TOGETHER * (A + 6 * D + 5 * F) / 32 / ((F + D) / PANEL) + 1;
        for (long i = r; i < r + n; i++)
            normalize_row_backward(grad_y + i * D, beside ? beside + i * D : NULL, y + i * D, inverse[i], grad_total + i * D, D);
        multiply_rows_asking(grad_total + r * D, down, grad_hidden, n, F, D, &ahead, lines);
        for (long i = 0; i < n; i++)
            swiglu_row_backward(inner + 2 * (r + i) * F, grad_hidden + i * F, hidden + (r + i) * F, grad_inner + 2 * (r + i) * F, F);
        multiply_rows_asking(grad_inner + 2 * r * F, gate_up, part, n, D, 2 * F, &ahead, lines);
        for (long i = 0; i < n; i++) {
            const long at = (r + i) * D;
            normalize_row_backward(part + i * D, grad_total + at, y1 + at, inverse1[r + i], grad_first + at, D);
        }
        multiply_rows(grad_first + r * D, o, grad_mixed + r * A, n, A, D);
    }
}

/* --- Muon --- */

/* The running mean of one matrix's gradients goes on; x: the direction of its step, short side first, as long as 1.
   rows x columns is the matrix as it is; R x C, R <= C, the same or its transpose. */
static void direction(const float *grad, float *mean, bf16 *x, long rows, long columns, long C, int tall, float momentum) {
    floats square = _mm512_setzero_ps();
    for (long i = 0; i < rows; i += 16)
        for (long j = 0; j < columns; j += 16) {
            const __mmask16 m = first_of(columns - j);
            const long n = rows - i < 16 ? rows - i : 16;
            __m512i block[16];
            for (long k = 0; k < 16; k++) {
                const long at = (i + k) * columns + j;
                const floats g = k < n ? _mm512_maskz_loadu_ps(m, grad + at) : _mm512_setzero_ps();
                floats b = k < n ? _mm512_maskz_loadu_ps(m, mean + at) : g;
                b = _mm512_fmadd_ps(_mm512_sub_ps(g, b), all(1.0f - momentum), b);
                if (k < n) _mm512_mask_storeu_ps(mean + at, m, b);
                block[k] = _mm512_castps_si512(_mm512_fmadd_ps(_mm512_sub_ps(g, b), all(1.0f - momentum), b));
            }
            if (tall) transpose(block);
            for (long k = 0; k < (tall ? columns - j : n) && k < 16; k++) {
                const floats d = _mm512_castsi512_ps(block[k]);
                square = _mm512_fmadd_ps(d, d, square);
                if (tall) store(x + (j + k) * C + i, first_of(rows - i), d);
                else
                    store(x + (i + k) * C + j, m, d);
            }
        }
    const float length = sqrtf(_mm512_reduce_add_ps(square)), scale = 1.0f / (length > 1e-7f ? length : 1e-7f);
    SIXTEENS(i, m, rows * columns, store(x + i, m, _mm512_mul_ps(all(scale), load(x + i, m))););
}

/* weight = keep * weight - step * x, x as `direction` leaves it. */
static void apply_step(float *weight, const bf16 *x, long rows, long columns, long C, int tall, float keep, float step) {
    for (long i = 0; i < rows; i += 16)
        for (long j = 0; j < columns; j += 16) {
            const long n = rows - i < 16 ? rows - i : 16, wide = columns - j < 16 ? columns - j : 16;
            __m512i block[16];
            for (long k = 0; k < 16; k++) {
                const int there = k < (tall ? wide : n);
                const bf16 *const from = tall ? x + (j + k) * C + i : x + (i + k) * C + j;
                block[k] = _mm512_castps_si512(there ? load(from, first_of(tall ? n : wide)) : _mm512_setzero_ps());
            }
            if (tall) transpose(block);
            for (long k = 0; k < n; k++) {
                float *const w = weight + (i + k) * columns + j;
                const floats kept = _mm512_mul_ps(all(keep), _mm512_maskz_loadu_ps(first_of(wide), w));
                _mm512_mask_storeu_ps(w, first_of(wide), _mm512_fnmadd_ps(all(step), _mm512_castsi512_ps(block[k]), kept));
            }
        }
}

/* One step for n matrices [rows[k], columns[k]], sides even. Newton-Schulz: x becomes a x + (b g + c g g) x with g = x x'. */
void muon(float *const *weights, const float *const *grads, float *const *means, const long *rows, const long *columns, long n,
          float lr, float momentum, float weight_decay, float a, float b, float c, long iterations, int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (long k = 0; k < n; k++) {
        const int tall = rows[k] > columns[k];
        const long R = tall ? columns[k] : rows[k], C = tall ? rows[k] : columns[k];
        const long room = (C + PANEL - 1) / PANEL * PANEL * R > (R + PANEL - 1) / PANEL * PANEL * C
                              ? (C + PANEL - 1) / PANEL * PANEL * R : (R + PANEL - 1) / PANEL * PANEL * C;
        bf16 *x = (bf16 *)borrow((room + 2 * R * R + 2 * R * C) / 2 + 1), *next = x + R * C;
        bf16 *const gram = next + R * C, *const polynomial = gram + R * R;
        uint32_t *const panels = (uint32_t *)(polynomial + R * R);
        direction(grads[k], means[k], x, rows[k], columns[k], C, tall, momentum);
        for (long i = 0; i < iterations; i++) {
            for (long f = 0; f < R; f += PANEL) pack_panel(x, panels, f, R, C);
            multiply_rows(x, panels, gram, R, R, C);
            for (long f = 0; f < R; f += PANEL) pack_panel(gram, panels, f, R, R);
            multiply_onto(gram, panels, (Start){gram, R, b / c, c}, polynomial, R, R, R);
            for (long f = 0; f < C; f += PANEL) pack_panel_across(x, panels, f, C, R);
            multiply_onto(polynomial, panels, (Start){x, C, a, 1.0f}, next, R, C, R);
            bf16 *const old = x;
            x = next, next = old;
        }
        apply_step(weights[k], x, rows[k], columns[k], C, tall, 1.0f - lr * weight_decay,
                   lr * (tall ? sqrtf((float)rows[k] / (float)columns[k]) : 1.0f));
    }
}

/* --- training: whole rows --- */

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

/* [T, d] with rows `stride` numbers apart -> pairs along T: [up16(T) / 2, d], zeros behind T. */
static void pairs_along(const bf16 *x, long stride, long T, long d, uint32_t *to) {
    for (long t = 0; t < up16(T); t += 2)
        for (long j = 0; j < d; j += 16) {
            const bf16 *at = x + t * stride + j;
            __m512i even = _mm512_setzero_si512(), odd = even;
            if (t < T) even = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at));
            if (t + 1 < T) odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(at + stride)));
            _mm512_storeu_si512(to + t / 2 * d + j, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
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
        pairs_along(token + (H + K + k) * d, width, T, d, values);
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
        pairs_along(token + (H + k) * d, width, T, d, keys_along);
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
                pairs_along(q, width, n, d, q_along);
                pairs_along(g, H * d, n, d, g_along);
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
#endif
