// libcudart: devices, streams, events and kernels. A kernel's launch is checked and counted; nothing runs.
#include "null_gpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

_Thread_local int current_device;
static _Thread_local cudaError_t last_error;
static int driver_process;               // that initialised CUDA: its forked children may not use it
static int context_process[MOST_CARDS];  // that opened the device
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

// -------------------------------------------------------------------------------------------------------------- errors

cudaError_t failed(cudaError_t error) {
  if (error) last_error = error;
  return error;
}

// Names and words as the runtime has them (driver_types.h); a caller matches on them.
static const struct {
  int code;
  const char *name, *words;
} known_errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorSymbolNotFound, "cudaErrorSymbolNotFound", "named symbol not found"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
};

const char *error_text(int code, int in_words) {
  for (size_t each = 0; each < sizeof known_errors / sizeof *known_errors; each++)
    if (known_errors[each].code == code) return in_words ? known_errors[each].words : known_errors[each].name;
  return in_words ? "unrecognized error code" : "cudaErrorUnknown";
}

PUBLIC const char *cudaGetErrorName(cudaError_t error) { return error_text(error, 0); }
PUBLIC const char *cudaGetErrorString(cudaError_t error) { return error_text(error, 1); }
PUBLIC cudaError_t cudaPeekAtLastError(void) { return last_error; }
PUBLIC cudaError_t cudaGetLastError(void) {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

// ------------------------------------------------------------------------------------------------------ initialisation

cudaError_t need_driver(void) {
  if (!cards_visible) return failed(cudaErrorNoDevice);
  if (!driver_process) driver_process = getpid();
  if (driver_process == getpid()) return cudaSuccess;
  tell("a forked child uses CUDA, which its parent had initialised");
  return failed(cudaErrorInitializationError);
}

int has_context(int device) { return context_process[device] == getpid(); }

cudaError_t need_context(void) {
  RETURN_UNLESS(need_driver());
  if (has_context(current_device)) return cudaSuccess;
  pthread_mutex_lock(&guard);
  int opened = has_context(current_device) || take(as_present[current_device], card.context);
  if (opened) context_process[current_device] = getpid();
  if (opened) tell("card %d is opened", as_present[current_device]);
  pthread_mutex_unlock(&guard);
  return opened ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

void *own_symbol(const char *name) {
  static void *self;
  if (!self) {
    Dl_info info;
    dladdr((void *)&own_symbol, &info);
    self = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  }
  return dlsym(self, name);
}

// ------------------------------------------------------------------------------------------------------------- devices

static int is_device(int device) { return device >= 0 && device < cards_visible; }

PUBLIC cudaError_t cudaGetDeviceCount(int *count) {
  *count = 0;
  RETURN_UNLESS(need_driver());
  *count = cards_visible;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaGetDevice(int *device) {
  RETURN_UNLESS(need_driver());
  *device = current_device;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaSetDevice(int device) {
  RETURN_UNLESS(need_driver());
  if (!is_device(device)) return failed(cudaErrorInvalidDevice);
  current_device = device;
  return need_context();
}
PUBLIC cudaError_t cudaDriverGetVersion(int *version) {
  *version = DRIVER_VERSION;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }
PUBLIC cudaError_t cudaDeviceSynchronize(void) { return need_context(); }
PUBLIC cudaError_t cudaDeviceReset(void) { return cudaSuccess; }
PUBLIC cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaDeviceCanAccessPeer(int *can, UNUSED int device, UNUSED int peer) {
  *can = 0;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaDeviceGetPCIBusId(char *text, int room, int device) {
  RETURN_UNLESS(need_driver());
  if (!is_device(device)) return failed(cudaErrorInvalidDevice);
  snprintf(text, (size_t)room, "0000:%02X:00.0", pci_bus(as_present[device]));
  return cudaSuccess;
}

PUBLIC cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  RETURN_UNLESS(need_driver());
  if (!is_device(device)) return failed(cudaErrorInvalidDevice);
  *properties = (struct cudaDeviceProp){
      .totalGlobalMem = card.memory,
      .sharedMemPerBlock = 48 << 10,
      .regsPerBlock = 1 << 16,
      .regsPerMultiprocessor = 1 << 16,
      .warpSize = 32,
      .memPitch = 0x7fffffff,
      .maxThreadsPerBlock = 1024,
      .maxThreadsDim = {1024, 1024, 64},
      .maxGridSize = {0x7fffffff, 65535, 65535},
      .totalConstMem = 1 << 16,
      .major = card.capability / 10,
      .minor = card.capability % 10,
      .textureAlignment = 512,
      .texturePitchAlignment = 32,
      .multiProcessorCount = card.multiprocessors,
      .canMapHostMemory = 1,
      .concurrentKernels = 1,
      .pciBusID = pci_bus(as_present[device]),
      .asyncEngineCount = 3,
      .unifiedAddressing = 1,
      .memoryBusWidth = card.bus_bits,
      .l2CacheSize = card.l2_bytes,
      .maxThreadsPerMultiProcessor = card.threads_per_multiprocessor,
      .streamPrioritiesSupported = 1,
      .globalL1CacheSupported = 1,
      .localL1CacheSupported = 1,
      .sharedMemPerMultiprocessor = (size_t)card.shared_per_multiprocessor,
      .sharedMemPerBlockOptin = (size_t)card.shared_per_block,
      .reservedSharedMemPerBlock = 1024,
      .managedMemory = 1,
      .concurrentManagedAccess = 1,
      .pageableMemoryAccess = 1,
      .computePreemptionSupported = 1,
      .cooperativeLaunch = 1,
      .maxBlocksPerMultiProcessor = card.blocks_per_multiprocessor,
      .hostRegisterSupported = 1,
      .memoryPoolsSupported = 1,
      .clusterLaunch = card.capability >= 90,
  };
  snprintf(properties->name, sizeof properties->name, "%s", card.name);
  uuid_bytes(as_present[device], (unsigned char *)&properties->uuid);
  return cudaSuccess;
}

// cudaDeviceAttr and CUdevice_attribute have the same numbers; the driver's names cover more of them.
int device_attribute(int attribute, int device) {
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return 0x7fffffff;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return 48 << 10;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: return 1 << 16;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return 1980000;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 2619000;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return card.multiprocessors;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return card.bus_bits;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return card.l2_bytes;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return card.threads_per_multiprocessor;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return card.capability / 10;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return card.capability % 10;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return card.shared_per_multiprocessor;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return card.shared_per_block;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: return card.blocks_per_multiprocessor;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK: return 1024;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return pci_bus(as_present[device]);
    case CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH: return card.capability >= 90;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED: return 1;
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED: return 0;
    default: tell("device attribute %d is not known; it answers 0", attribute); return 0;
  }
}

PUBLIC cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  RETURN_UNLESS(need_driver());
  if (!is_device(device)) return failed(cudaErrorInvalidDevice);
  *value = device_attribute((int)attribute, device);
  return cudaSuccess;
}

// ------------------------------------------------------------------------------------------------- streams and events

typedef struct {
  int priority;
} Stream;
typedef struct {
  double at;  // seconds of the host's clock
  int is_recorded, keeps_time;
} Event;

PUBLIC cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, UNUSED unsigned flags, int priority) {
  RETURN_UNLESS(need_context());
  Stream *made = malloc(sizeof *made);
  made->priority = priority;
  *stream = (cudaStream_t)made;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
PUBLIC cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
PUBLIC cudaError_t cudaStreamDestroy(UNUSED cudaStream_t stream) { return cudaSuccess; }
PUBLIC cudaError_t cudaStreamQuery(UNUSED cudaStream_t stream) { return need_context(); }
PUBLIC cudaError_t cudaStreamSynchronize(UNUSED cudaStream_t stream) { return need_context(); }
PUBLIC cudaError_t cudaStreamWaitEvent(UNUSED cudaStream_t stream, UNUSED cudaEvent_t event, UNUSED unsigned flags) {
  return need_context();
}
PUBLIC cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
  *priority = stream ? ((Stream *)stream)->priority : 0;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaStreamIsCapturing(UNUSED cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaStreamGetCaptureInfo(UNUSED cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                            unsigned long long *id, cudaGraph_t *graph,
                                            const cudaGraphNode_t **dependencies, const cudaGraphEdgeData **edges,
                                            size_t *count) {
  *status = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  if (graph) *graph = NULL;
  if (dependencies) *dependencies = NULL;
  if (edges) *edges = NULL;
  if (count) *count = 0;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaThreadExchangeStreamCaptureMode(UNUSED enum cudaStreamCaptureMode *mode) { return cudaSuccess; }
// All that was launched before is done, so what has to follow it runs at once.
PUBLIC cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void *data,
                                         UNUSED unsigned flags) {
  function(stream, cudaSuccess, data);
  return cudaSuccess;
}
PUBLIC cudaError_t cudaLaunchHostFunc(UNUSED cudaStream_t stream, cudaHostFn_t function, void *data) {
  function(data);
  return cudaSuccess;
}

PUBLIC cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  RETURN_UNLESS(need_context());
  Event *made = calloc(1, sizeof *made);
  made->keeps_time = !(flags & cudaEventDisableTiming);
  *event = (cudaEvent_t)made;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
PUBLIC cudaError_t cudaEventDestroy(cudaEvent_t event) {
  free(event);
  return cudaSuccess;
}
PUBLIC cudaError_t cudaEventQuery(UNUSED cudaEvent_t event) { return need_context(); }
PUBLIC cudaError_t cudaEventSynchronize(UNUSED cudaEvent_t event) { return need_context(); }
PUBLIC cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, UNUSED cudaStream_t stream, UNUSED unsigned flags) {
  RETURN_UNLESS(need_context());
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  Event *mark = (Event *)event;
  mark->at = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
  mark->is_recorded = 1;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, 0);
}
PUBLIC cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Event *from = (Event *)start, *to = (Event *)end;
  int can_tell = from->is_recorded && to->is_recorded && from->keeps_time && to->keeps_time;
  if (!can_tell) return failed(cudaErrorInvalidResourceHandle);
  *milliseconds = (float)((to->at - from->at) * 1e3);
  return cudaSuccess;
}

// ------------------------------------------------------------------------------------------------------------- kernels

PUBLIC void **__cudaRegisterFatBinary(UNUSED void *binary) {
  static void *handle;
  return &handle;
}
PUBLIC void __cudaRegisterFatBinaryEnd(UNUSED void **handle) {}
PUBLIC void __cudaUnregisterFatBinary(UNUSED void **handle) {}
PUBLIC char __cudaInitModule(UNUSED void **handle) { return 0; }
PUBLIC void __cudaRegisterVar(UNUSED void **handle, UNUSED char *host, UNUSED char *address, UNUSED const char *name,
                              UNUSED int is_external, UNUSED size_t size, UNUSED int is_constant,
                              UNUSED int is_global) {}
PUBLIC void __cudaRegisterManagedVar(UNUSED void **handle, UNUSED void **host, UNUSED char *address,
                                     UNUSED const char *name, UNUSED int is_external, UNUSED size_t size,
                                     UNUSED int is_constant, UNUSED int is_global) {}
PUBLIC void __cudaRegisterFunction(UNUSED void **handle, UNUSED const char *host, UNUSED char *device,
                                   UNUSED const char *name, UNUSED int most_threads, UNUSED uint3 *thread,
                                   UNUSED uint3 *block, UNUSED dim3 *block_size, UNUSED dim3 *grid_size,
                                   UNUSED int *warp_size) {}

// kernel<<<grid, block, shared, stream>>>(...) is compiled into a push, and into a pop just before the launch.
typedef struct {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
} Configuration;
static _Thread_local Configuration pushed[8];
static _Thread_local size_t num_pushed;

PUBLIC unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, struct CUstream_st *stream) {
  if (num_pushed == sizeof pushed / sizeof *pushed) return 1;
  pushed[num_pushed++] = (Configuration){grid, block, shared, stream};
  return 0;
}
PUBLIC cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *stream) {
  if (!num_pushed) return failed(cudaErrorInvalidConfiguration);
  Configuration last = pushed[--num_pushed];
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *(cudaStream_t *)stream = last.stream;
  return cudaSuccess;
}

static cudaError_t launch(dim3 grid, dim3 block, size_t shared) {
  RETURN_UNLESS(need_context());
  size_t threads = (size_t)block.x * block.y * block.z;
  int is_possible = grid.x && grid.y && grid.y <= 65535 && grid.z && grid.z <= 65535 && threads && threads <= 1024 &&
                    block.z <= 64;
  if (!is_possible) {
    tell("a kernel was launched with a grid of %u x %u x %u and blocks of %u x %u x %u", grid.x, grid.y, grid.z,
         block.x, block.y, block.z);
    return failed(cudaErrorInvalidConfiguration);
  }
  if (shared > (size_t)card.shared_per_block) {
    tell("a kernel was launched with %zu bytes of shared memory", shared);
    return failed(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

PUBLIC cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
  *kernel = (cudaKernel_t)function;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaLaunchKernel(UNUSED const void *function, dim3 grid, dim3 block, UNUSED void **arguments,
                                    size_t shared, UNUSED cudaStream_t stream) {
  return launch(grid, block, shared);
}
PUBLIC cudaError_t __cudaLaunchKernel(UNUSED cudaKernel_t kernel, dim3 grid, dim3 block, UNUSED void **arguments,
                                      size_t shared, UNUSED cudaStream_t stream) {
  return launch(grid, block, shared);
}
PUBLIC cudaError_t cudaLaunchCooperativeKernel(UNUSED const void *function, dim3 grid, dim3 block,
                                               UNUSED void **arguments, size_t shared, UNUSED cudaStream_t stream) {
  return launch(grid, block, shared);
}
PUBLIC cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *configuration, UNUSED const void *function,
                                       UNUSED void **arguments) {
  return launch(configuration->gridDim, configuration->blockDim, configuration->dynamicSmemBytes);
}

// Which code of a library a card would run: the newest of its major version among those that PyTorch's wheels hold.
static int binary_version(void) {
  static const int built_for[] = {120, 100, 90, 86, 80, 75, 70};
  for (size_t each = 0; each < sizeof built_for / sizeof *built_for; each++)
    if (built_for[each] / 10 == card.capability / 10 && built_for[each] <= card.capability) return built_for[each];
  return card.capability;
}

PUBLIC cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, UNUSED const void *function) {
  RETURN_UNLESS(need_context());
  *attributes = (struct cudaFuncAttributes){
      .maxThreadsPerBlock = 1024,
      .numRegs = 32,
      .ptxVersion = binary_version(),
      .binaryVersion = binary_version(),
      .maxDynamicSharedSizeBytes = card.shared_per_block,
  };
  return cudaSuccess;
}
PUBLIC cudaError_t cudaFuncSetAttribute(UNUSED const void *function, enum cudaFuncAttribute attribute, int value) {
  RETURN_UNLESS(need_context());
  int is_too_much = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value > card.shared_per_block;
  return is_too_much ? failed(cudaErrorInvalidValue) : cudaSuccess;
}
PUBLIC cudaError_t cudaFuncSetCacheConfig(UNUSED const void *function, UNUSED enum cudaFuncCache preference) {
  return cudaSuccess;
}

int blocks_that_fit(int threads, size_t shared) {
  int fit = card.threads_per_multiprocessor / (threads > 0 ? threads : 1);
  if (shared) {
    int by_shared = (int)((size_t)card.shared_per_multiprocessor / (shared + 1024));
    if (by_shared < fit) fit = by_shared;
  }
  return fit < card.blocks_per_multiprocessor ? fit : card.blocks_per_multiprocessor;
}
PUBLIC cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, UNUSED const void *function,
                                                                          int threads, size_t shared,
                                                                          UNUSED unsigned flags) {
  RETURN_UNLESS(need_context());
  *blocks = blocks_that_fit(threads, shared);
  return cudaSuccess;
}
PUBLIC cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int threads,
                                                                 size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0);
}
PUBLIC cudaError_t cudaProfilerStart(void) { return cudaSuccess; }
PUBLIC cudaError_t cudaProfilerStop(void) { return cudaSuccess; }

// The driver's function by its plain name: the newest version of it that is here.
PUBLIC cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, UNUSED unsigned version,
                                                    UNUSED unsigned long long flags,
                                                    enum cudaDriverEntryPointQueryResult *result) {
  char versioned[128];
  *function = NULL;
  for (int number = 4; number > 1 && !*function; number--) {
    snprintf(versioned, sizeof versioned, "%s_v%d", symbol, number);
    *function = own_symbol(versioned);
  }
  if (!*function) *function = own_symbol(symbol);
  if (!*function) tell("the driver's %s is not implemented", symbol);
  if (result) *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaGetDriverEntryPoint(const char *symbol, void **function, unsigned long long flags,
                                           enum cudaDriverEntryPointQueryResult *result) {
  return cudaGetDriverEntryPointByVersion(symbol, function, DRIVER_VERSION, flags, result);
}
