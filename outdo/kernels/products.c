/* Products with weights in panels, and the gradients of small weights. */

#define PANEL 48 /* columns of a product that are computed together: 8 rows of them fill 24 registers */

INLINE long panels_of(long columns) { return (columns + PANEL - 1) / PANEL; }

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

void pack_panels(const bf16 *weight, uint32_t *panels, long F, long D, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (F * D > SMALL)
    for (long f = 0; f < F; f += PANEL) pack_panel(weight, panels, f, F, D);
}

/* The same of a weight [D, F] as it multiplies from the right: pairs along its rows. */
void pack_panels_across(const bf16 *weight, uint32_t *panels, long F, long D, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (F * D > SMALL)
    for (long f = 0; f < F; f += PANEL) pair_rows(weight + f, F, D, D, F - f < PANEL ? F - f : PANEL, panels + f * D / 2, PANEL);
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

/* out [F, D] = grad' x, grad [rows, F], x [rows, D]. */
void outer(const bf16 *grad, const bf16 *x, bf16 *out, long rows, long F, long D, int threads) {
    const long part = ((F + threads - 1) / threads + 7) / 8 * 8;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long f = 0; f < F; f += part) {
        const long own = F - f < part ? F - f : part, ldc = up16(D), lda = apart(own);
        const long lines = DEEP * (F + D) / 32 / (panels_of(D) * ((own + 7) / 8)) + 1;
        float *const C = borrow(up16(own) * ldc + DEEP / 2 * (lda + PANEL));
        uint32_t *const pairs = (uint32_t *)(C + up16(own) * ldc), *const panel = pairs + DEEP / 2 * lda;
        memset(C, 0, up16(own) * ldc * sizeof(float));
        for (long t = 0; t < rows; t += DEEP) {
            const long n = rows - t < DEEP ? rows - t : DEEP;
            pair_rows(grad + t * F + f, F, n, n, own, pairs, lda);
            Ahead ahead = {.n = 0, .now = 0};
            const long more = rows - t - DEEP < DEEP ? rows - t - DEEP : DEEP;
            if (more > 0) announce(&ahead, grad + (t + DEEP) * F + f, (more - 1) * F + own), announce(&ahead, x + (t + DEEP) * D, more * D);
            for (long d = 0; d < D; d += PANEL) {
                const long wide = D - d < PANEL ? D - d : PANEL;
                pair_rows(x + t * D + d, D, n, n, wide, panel, PANEL);
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
