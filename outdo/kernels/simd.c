/* Sixteen numbers at a time: loads, stores, e^x, and what the other files stand on. */

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

/* Rows of x, `stride` numbers apart, in pairs: to [upto / 2, width in sixteens], its rows ldt words apart; zeros behind row n. */
static void pair_rows(const bf16 *x, long stride, long n, long upto, long width, uint32_t *to, long ldt) {
    for (long t = 0; t < upto; t += 2)
        for (long j = 0; j < width; j += 16) {
            const __mmask16 m = first_of(width - j);
            const bf16 *const at = x + t * stride + j;
            const __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(t < n ? m : 0, at));
            const __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(t + 1 < n ? m : 0, at + stride));
            _mm512_storeu_si512(to + t / 2 * ldt + j, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
        }
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
