/* Row by row: norms, SwiGLU, rotary positions, and parameters on their way to compute weights and back. */

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
