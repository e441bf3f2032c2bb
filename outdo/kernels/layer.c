/* What a layer does behind its attention, a few rows at a time: what lies between the products stays in the cache. */

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
        const long lines = TOGETHER * (A + 4 * D + 2 * F) / 32 / (panels_of(2 * F) + panels_of(D)) + 1;
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
        const long lines = TOGETHER * (A + 6 * D + 5 * F) / 32 / (panels_of(F) + panels_of(D)) + 1;
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
