/* What eager PyTorch does slowly on a CPU: the pieces between a decoder's large matrix products, each in one walk over memory, and
   products of few rows.

   For bf16 (the upper halves of float32 numbers) on processors with AVX-512 and its bf16 products; elsewhere this file is empty
   and PyTorch computes. Sums, norms and softmax are float32. Tasks are independent of each other and each goes in one order: the
   results do not depend on the number of threads. Compiled at first use, see __init__.py. */

#ifdef __AVX512BF16__
#include "simd.c"

#include "rows.c"
#include "products.c"
#include "layer.c"
#include "muon.c"
#include "decoding.c"
#include "attention.c"
#endif
