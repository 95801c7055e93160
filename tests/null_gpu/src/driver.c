// libcuda.so.1: what PyTorch's allocator, Triton and bitsandbytes ask the driver for.
#include "null_gpu.h"

// cuda.h turns plain names into versioned ones by macros; the functions below carry their versions themselves.
#undef cuDeviceTotalMem
#undef cuCtxPushCurrent
#undef cuCtxPopCurrent
#undef cuDevicePrimaryCtxRelease
#undef cuDeviceGetUuid
#undef cuGetProcAddress
#undef cuMemAlloc
#undef cuMemFree
#undef cuMemGetAddressRange
#undef cuMemGetInfo
#undef cuMemcpyDtoH
#undef cuMemcpyHtoD
#undef cuMemsetD32Async
#undef cuMemsetD8Async

// The runtime's error numbers are the driver's where both have a name for it.
static CUresult as_driver(cudaError_t error) { return (CUresult)error; }

// A context's handle is its device, moved away from NULL.
#define HANDLE_OF_FIRST_DEVICE ((size_t)0x2000)
static CUcontext handle_of(int device) { return (CUcontext)(HANDLE_OF_FIRST_DEVICE + (size_t)device); }
static int device_of(CUcontext context) { return (int)((size_t)context - HANDLE_OF_FIRST_DEVICE); }

PUBLIC CUresult cuInit(UNUSED unsigned flags) { return as_driver(need_driver()); }
PUBLIC CUresult cuDriverGetVersion(int *version) {
  *version = DRIVER_VERSION;
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuGetErrorName(CUresult error, const char **name) {
  *name = error_text((int)error, 0);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuGetErrorString(CUresult error, const char **words) {
  *words = error_text((int)error, 1);
  return CUDA_SUCCESS;
}

PUBLIC CUresult cuDeviceGetCount(int *count) {
  *count = cards_visible;
  return as_driver(need_driver());
}
PUBLIC CUresult cuDeviceGet(CUdevice *device, int number) {
  if (need_driver()) return CUDA_ERROR_NOT_INITIALIZED;
  if (number < 0 || number >= cards_visible) return CUDA_ERROR_INVALID_DEVICE;
  *device = number;
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuDeviceGetName(char *name, int room, UNUSED CUdevice device) {
  snprintf(name, (size_t)room, "%s", card.name);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuDeviceTotalMem_v2(size_t *bytes, UNUSED CUdevice device) {
  *bytes = card.memory;
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  *value = device_attribute((int)attribute, device);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
  uuid_bytes(as_present[device], (unsigned char *)uuid);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) { return cuDeviceGetUuid_v2(uuid, device); }

PUBLIC CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *is_active) {
  if (flags) *flags = 0;
  *is_active = has_context(device);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  int before = current_device;
  current_device = device;
  cudaError_t error = need_context();
  current_device = before;
  *context = handle_of(device);
  return as_driver(error);
}
PUBLIC CUresult cuDevicePrimaryCtxRelease_v2(UNUSED CUdevice device) { return CUDA_SUCCESS; }
PUBLIC CUresult cuCtxGetCurrent(CUcontext *context) {
  *context = has_context(current_device) ? handle_of(current_device) : NULL;
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuCtxSetCurrent(CUcontext context) {
  if (context) current_device = device_of(context);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuCtxPushCurrent_v2(CUcontext context) { return cuCtxSetCurrent(context); }
PUBLIC CUresult cuCtxPopCurrent_v2(CUcontext *context) { return context ? cuCtxGetCurrent(context) : CUDA_SUCCESS; }
PUBLIC CUresult cuCtxGetDevice(CUdevice *device) {
  *device = current_device;
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuCtxSynchronize(void) { return CUDA_SUCCESS; }
PUBLIC CUresult cuCtxGetLimit(size_t *value, UNUSED CUlimit limit) {
  *value = 8 * MIB;
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuCtxSetLimit(UNUSED CUlimit limit, UNUSED size_t value) { return CUDA_SUCCESS; }

PUBLIC CUresult cuMemGetInfo_v2(size_t *left, size_t *total) { return as_driver(cudaMemGetInfo(left, total)); }
PUBLIC CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size) {
  return as_driver(allocate((void **)pointer, size, ON_CARD));
}
PUBLIC CUresult cuMemFree_v2(CUdeviceptr pointer) { return as_driver(release((void *)pointer)); }
PUBLIC CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size) {
  copy_bytes((void *)to, from, size);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size) {
  copy_for_host(to, (const void *)from, size);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, UNUSED CUstream stream) {
  fill_bytes((void *)to, value, count);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, UNUSED CUstream stream) {
  if (!value) fill_bytes((void *)to, 0, 4 * count);
  else if (4 * count <= largest_copy)
    for (size_t each = 0; each < count; each++) ((unsigned *)to)[each] = value;
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuMemGetAddressRange_v2(CUdeviceptr *start, size_t *size, CUdeviceptr pointer) {
  Block block;
  if (!find_block((void *)pointer, &block)) return CUDA_ERROR_NOT_FOUND;
  if (start) *start = (CUdeviceptr)block.start;
  if (size) *size = block.size;
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr pointer) {
  Block block;
  if (!find_block((void *)pointer, &block)) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: *(CUcontext *)value = handle_of(block.device); return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *(CUmemorytype *)value = block.place == ON_HOST ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)value = pointer; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)value = block.device; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: *(unsigned long long *)value = (size_t)block.start; return CUDA_SUCCESS;
    default: tell("pointer attribute %d is not known", (int)attribute); return CUDA_ERROR_INVALID_VALUE;
  }
}
PUBLIC CUresult cuPointerGetAttributes(unsigned count, CUpointer_attribute *attributes, void **values,
                                       CUdeviceptr pointer) {
  for (unsigned each = 0; each < count; each++) cuPointerGetAttribute(values[each], attributes[each], pointer);
  return CUDA_SUCCESS;
}

// Code that is compiled here (Triton, NVRTC) is accepted unread.
PUBLIC CUresult cuModuleLoadData(CUmodule *module, UNUSED const void *image) {
  *module = malloc(1);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, UNUSED unsigned count,
                                   UNUSED CUjit_option *options, UNUSED void **values) {
  return cuModuleLoadData(module, image);
}
PUBLIC CUresult cuModuleLoad(CUmodule *module, UNUSED const char *file) { return cuModuleLoadData(module, NULL); }
PUBLIC CUresult cuModuleUnload(UNUSED CUmodule module) { return CUDA_SUCCESS; }
PUBLIC CUresult cuModuleGetFunction(CUfunction *function, UNUSED CUmodule module, const char *name) {
  *function = (CUfunction)strdup(name);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, UNUSED CUfunction function) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 32; break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *value = card.capability; break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuFuncSetAttribute(UNUSED CUfunction function, UNUSED CUfunction_attribute attribute,
                                   UNUSED int value) {
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuFuncSetCacheConfig(UNUSED CUfunction function, UNUSED CUfunc_cache preference) {
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuLaunchKernel(UNUSED CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                               unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                               UNUSED CUstream stream, UNUSED void **arguments, UNUSED void **more) {
  dim3 grid = {grid_x, grid_y, grid_z}, block = {block_x, block_y, block_z};
  return as_driver(cudaLaunchKernel(function, grid, block, arguments, shared, NULL));
}
PUBLIC CUresult cuLaunchKernelEx(const CUlaunchConfig *with, CUfunction function, void **arguments, void **more) {
  return cuLaunchKernel(function, with->gridDimX, with->gridDimY, with->gridDimZ, with->blockDimX, with->blockDimY,
                        with->blockDimZ, with->sharedMemBytes, with->hStream, arguments, more);
}
PUBLIC CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                          unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                                          CUstream stream, void **arguments) {
  return cuLaunchKernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, arguments, NULL);
}
PUBLIC CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, UNUSED CUfunction function, int threads,
                                                            size_t shared) {
  *blocks = blocks_that_fit(threads, shared);
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuOccupancyMaxActiveClusters(int *clusters, UNUSED CUfunction function,
                                             UNUSED const CUlaunchConfig *configuration) {
  *clusters = card.multiprocessors;
  return CUDA_SUCCESS;
}

PUBLIC CUresult cuGetProcAddress_v2(const char *symbol, void **function, int version, cuuint64_t flags,
                                    CUdriverProcAddressQueryResult *result) {
  cudaGetDriverEntryPointByVersion(symbol, function, (unsigned)version, flags,
                                   (enum cudaDriverEntryPointQueryResult *)result);
  return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
