/* Muon: from gradients to weights, a matrix at a time. */

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
        const long room = PANEL * PANEL * panels_of(C) * panels_of(R);
        bf16 *x = (bf16 *)borrow((room + 2 * R * R + 2 * R * C) / 2 + 1), *next = x + R * C;
        bf16 *const gram = next + R * C, *const polynomial = gram + R * R;
        uint32_t *const panels = (uint32_t *)(polynomial + R * R);
        direction(grads[k], means[k], x, rows[k], columns[k], C, tall, momentum);
        for (long i = 0; i < iterations; i++) {
            for (long f = 0; f < R; f += PANEL) pack_panel(x, panels, f, R, C);
            multiply_rows(x, panels, gram, R, R, C);
            for (long f = 0; f < R; f += PANEL) pack_panel(gram, panels, f, R, R);
            multiply_onto(gram, panels, (Start){gram, R, b / c, c}, polynomial, R, R, R);
            for (long f = 0; f < C; f += PANEL) pair_rows(x + f, C, R, R, C - f < PANEL ? C - f : PANEL, panels + f * R / 2, PANEL);
            multiply_onto(polynomial, panels, (Start){x, C, a, 1.0f}, next, R, C, R);
            bf16 *const old = x;
            x = next, next = old;
        }
        apply_step(weights[k], x, rows[k], columns[k], C, tall, 1.0f - lr * weight_decay,
                   lr * (tall ? sqrtf((float)rows[k] / (float)columns[k]) : 1.0f));
    }
}
