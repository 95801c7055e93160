// cuBLAS and cuBLASLt: handles that remember their settings. Products are refused nowhere and computed nowhere: build.py
// adds a function that succeeds for every symbol of both libraries that is not here.
#include "null_gpu.h"

typedef struct {
  int math_mode, pointer_mode;
  void *stream;
} Handle;

PUBLIC int cublasCreate_v2(void **handle) {
  const int not_initialized = 1;  // CUBLAS_STATUS_NOT_INITIALIZED: what a full card gives, too
  if (need_context()) return not_initialized;
  *handle = calloc(1, sizeof(Handle));
  return 0;
}
PUBLIC int cublasDestroy_v2(void *handle) {
  free(handle);
  return 0;
}
PUBLIC int cublasGetVersion_v2(UNUSED void *handle, int *version) {
  *version = 130101;
  return 0;
}
PUBLIC int cublasGetMathMode(void *handle, int *mode) {
  *mode = ((Handle *)handle)->math_mode;
  return 0;
}
PUBLIC int cublasSetMathMode(void *handle, int mode) {
  ((Handle *)handle)->math_mode = mode;
  return 0;
}
PUBLIC int cublasGetPointerMode_v2(void *handle, int *mode) {
  *mode = ((Handle *)handle)->pointer_mode;
  return 0;
}
PUBLIC int cublasSetPointerMode_v2(void *handle, int mode) {
  ((Handle *)handle)->pointer_mode = mode;
  return 0;
}
PUBLIC int cublasGetStream_v2(void *handle, void **stream) {
  *stream = ((Handle *)handle)->stream;
  return 0;
}
PUBLIC int cublasSetStream_v2(void *handle, void *stream) {
  ((Handle *)handle)->stream = stream;
  return 0;
}

// Descriptors are never read, only made and destroyed. 512 bytes hold the largest (cublasLt.h, opaque structures).
static int make_descriptor(void **made) {
  *made = calloc(1, 512);
  return 0;
}
static int destroy_descriptor(void *descriptor) {
  free(descriptor);
  return 0;
}
PUBLIC size_t cublasLtGetVersion(void) { return 130101; }
PUBLIC size_t cublasLtGetCudartVersion(void) { return DRIVER_VERSION; }
PUBLIC int cublasLtCreate(void **handle) { return make_descriptor(handle); }
PUBLIC int cublasLtDestroy(void *handle) { return destroy_descriptor(handle); }
PUBLIC int cublasLtMatmulDescCreate(void **made, UNUSED int compute, UNUSED int scale) { return make_descriptor(made); }
PUBLIC int cublasLtMatmulDescDestroy(void *descriptor) { return destroy_descriptor(descriptor); }
PUBLIC int cublasLtMatrixLayoutCreate(void **made, UNUSED int type, UNUSED unsigned long long rows,
                                      UNUSED unsigned long long columns, UNUSED long long stride) {
  return make_descriptor(made);
}
PUBLIC int cublasLtMatrixLayoutDestroy(void *descriptor) { return destroy_descriptor(descriptor); }
PUBLIC int cublasLtMatmulPreferenceCreate(void **made) { return make_descriptor(made); }
PUBLIC int cublasLtMatmulPreferenceDestroy(void *descriptor) { return destroy_descriptor(descriptor); }

typedef struct {  // cublasLtMatmulHeuristicResult_t
  unsigned long long algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} Heuristic;
PUBLIC int cublasLtMatmulAlgoGetHeuristic(UNUSED void *handle, UNUSED void *operation, UNUSED void *a, UNUSED void *b,
                                          UNUSED void *c, UNUSED void *d, UNUSED void *preference, int wanted,
                                          Heuristic *results, int *found) {
  *found = wanted > 0;
  if (*found) *results = (Heuristic){.waves = 1.0f};
  return 0;
}
