// Memory of the card: address ranges of this process that hold nothing until somebody writes to them.
//
// A block is a private mapping without reserve, so 80 GB of it cost nothing. Copies and fills are carried out where they
// are small (settings, losses, masks); large ones would only take time. Sizes are charged as the driver charges them, in
// pieces of 2 MiB.
#include "null_gpu.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static Block *blocks;  // by address
static size_t num_blocks, room_for_blocks;

static size_t whole(size_t size, size_t unit) { return (size + unit - 1) & ~(unit - 1); }

// How many blocks start at or below an address.
static size_t blocks_up_to(const void *pointer) {
  size_t from = 0, to = num_blocks;
  while (from < to) {
    size_t middle = from + (to - from) / 2;
    if ((const char *)pointer >= blocks[middle].start) from = middle + 1;
    else to = middle;
  }
  return from;
}

static Block *block_around(const void *pointer) {
  size_t place = blocks_up_to(pointer);
  if (!place) return NULL;
  Block *last = &blocks[place - 1];
  return (size_t)((const char *)pointer - last->start) < last->size ? last : NULL;
}

static void remember(Block block) {
  if (num_blocks == room_for_blocks) {
    room_for_blocks = room_for_blocks ? room_for_blocks * 2 : 1024;
    blocks = realloc(blocks, room_for_blocks * sizeof *blocks);
    if (!blocks) abort();
  }
  size_t place = blocks_up_to(block.start);
  memmove(&blocks[place + 1], &blocks[place], (num_blocks - place) * sizeof *blocks);
  blocks[place] = block;
  num_blocks++;
}

static void forget(Block *block) {
  size_t place = (size_t)(block - blocks);
  num_blocks--;
  memmove(block, block + 1, (num_blocks - place) * sizeof *blocks);
}

// Addresses that start at a multiple of the granularity, as cudaMalloc's do; NULL where the system has none left.
static char *map(size_t size, int protection) {
  size_t more = size + GRANULARITY;
  char *given = mmap(NULL, more, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (given == MAP_FAILED) return NULL;
  char *start = (char *)whole((size_t)given, GRANULARITY);
  size_t before = (size_t)(start - given), after = more - before - size;
  if (before) munmap(given, before);
  if (after) munmap(start + size, after);
  madvise(start, size, MADV_NOHUGEPAGE);  // one written byte must not cost 2 MiB
  return start;
}

static cudaError_t add_block(void **pointer, size_t size, Place place) {
  size_t mapped = whole(size, place == ON_HOST ? PAGE : GRANULARITY), charged = place == ON_CARD ? mapped : 0;
  int present = as_present[current_device];
  if (charged && !take(present, charged)) return cudaErrorMemoryAllocation;
  char *start = map(mapped, place == RESERVED_ADDRESSES ? PROT_NONE : PROT_READ | PROT_WRITE);
  if (!start) {
    tell("the system has no addresses for %zu bytes: %s", size, strerror(errno));
    if (charged) give_back(present, charged);
    return cudaErrorMemoryAllocation;
  }
  remember((Block){start, mapped, charged, place, current_device});
  *pointer = start;
  return cudaSuccess;
}

cudaError_t allocate(void **pointer, size_t size, Place place) {
  *pointer = NULL;
  RETURN_UNLESS(need_context());
  if (!size) return cudaSuccess;
  pthread_mutex_lock(&guard);
  cudaError_t error = add_block(pointer, size, place);
  pthread_mutex_unlock(&guard);
  return failed(error);
}

cudaError_t release(void *pointer) {
  if (!pointer) return need_context();
  RETURN_UNLESS(need_driver());
  cudaError_t error = cudaErrorInvalidValue;
  pthread_mutex_lock(&guard);
  Block *block = block_around(pointer);
  if (block && block->start == pointer) {
    munmap(block->start, block->size);
    if (block->charged) give_back(as_present[block->device], block->charged);
    forget(block);
    error = cudaSuccess;
  }
  pthread_mutex_unlock(&guard);
  return failed(error);
}

int find_block(const void *pointer, Block *found) {
  pthread_mutex_lock(&guard);
  Block *block = block_around(pointer);
  if (block) *found = *block;
  pthread_mutex_unlock(&guard);
  return block != NULL;
}

void copy_bytes(void *to, const void *from, size_t size) {
  if (size && size <= largest_copy) memmove(to, from, size);
}

// What the host reads back are losses and norms that nobody computed: bit patterns of infinity and of "not a number"
// become 1, or a trial would end as diverged. Only for small copies of 4-byte words to host memory.
void copy_for_host(void *to, const void *from, size_t size) {
  copy_bytes(to, from, size);
  Block target;
  if (!makes_finite || size % 4 || size > PAGE) return;
  if (find_block(to, &target) && target.place != ON_HOST) return;
  const unsigned exponent = 0x7f800000u, one = 0x3f800000u;
  for (unsigned *word = to, *end = word + size / 4; word < end; word++)
    if ((*word & exponent) == exponent) *word = one;
}

// Large fills with zero give whole pages back to the system, which reads as zero; other large fills are left out.
void fill_bytes(void *to, int value, size_t size) {
  char *start = to, *end = start + size;
  if (size <= largest_copy) {
    memset(start, value, size);
    return;
  }
  if (value) return;
  char *first_page = (char *)whole((size_t)start, PAGE), *last_page = (char *)((size_t)end & ~(PAGE - 1));
  memset(start, 0, (size_t)(first_page - start));
  memset(last_page, 0, (size_t)(end - last_page));
  madvise(first_page, (size_t)(last_page - first_page), MADV_DONTNEED);
}

// ------------------------------------------------------------------------------------------------------ runtime's names

PUBLIC cudaError_t cudaMalloc(void **pointer, size_t size) { return allocate(pointer, size, ON_CARD); }
PUBLIC cudaError_t cudaMallocAsync(void **pointer, size_t size, UNUSED cudaStream_t stream) {
  return allocate(pointer, size, ON_CARD);
}
PUBLIC cudaError_t cudaMallocManaged(void **pointer, size_t size, UNUSED unsigned flags) {
  return allocate(pointer, size, MANAGED);
}
PUBLIC cudaError_t cudaMallocHost(void **pointer, size_t size) { return allocate(pointer, size, ON_HOST); }
PUBLIC cudaError_t cudaHostAlloc(void **pointer, size_t size, UNUSED unsigned flags) {
  return allocate(pointer, size, ON_HOST);
}
PUBLIC cudaError_t cudaFree(void *pointer) { return release(pointer); }
PUBLIC cudaError_t cudaFreeAsync(void *pointer, UNUSED cudaStream_t stream) { return release(pointer); }
PUBLIC cudaError_t cudaFreeHost(void *pointer) { return release(pointer); }
PUBLIC cudaError_t cudaHostRegister(UNUSED void *pointer, UNUSED size_t size, UNUSED unsigned flags) {
  return need_context();
}
PUBLIC cudaError_t cudaHostUnregister(UNUSED void *pointer) { return cudaSuccess; }
PUBLIC cudaError_t cudaHostGetDevicePointer(void **device, void *host, UNUSED unsigned flags) {
  *device = host;
  return cudaSuccess;
}
PUBLIC cudaError_t cudaMemPrefetchAsync(UNUSED const void *pointer, UNUSED size_t size,
                                        UNUSED struct cudaMemLocation to, UNUSED unsigned flags,
                                        UNUSED cudaStream_t stream) {
  return need_context();
}
PUBLIC cudaError_t cudaMemAdvise(UNUSED const void *pointer, UNUSED size_t size, UNUSED enum cudaMemoryAdvise advice,
                                 UNUSED struct cudaMemLocation at) {
  return need_context();
}

PUBLIC cudaError_t cudaMemGetInfo(size_t *left, size_t *total) {
  RETURN_UNLESS(need_context());
  size_t used = used_by_everybody(as_present[current_device]);
  *total = card.memory;
  *left = used < card.memory ? card.memory - used : 0;
  return cudaSuccess;
}

PUBLIC cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *answer, const void *pointer) {
  RETURN_UNLESS(need_driver());
  *answer = (struct cudaPointerAttributes){.type = cudaMemoryTypeUnregistered, .device = -2};
  answer->hostPointer = (void *)pointer;
  Block block;
  if (!find_block(pointer, &block)) return cudaSuccess;
  answer->device = block.device;
  answer->devicePointer = (void *)pointer;
  switch (block.place) {
    case ON_HOST: answer->type = cudaMemoryTypeHost; break;
    case MANAGED: answer->type = cudaMemoryTypeManaged; break;
    default: answer->type = cudaMemoryTypeDevice, answer->hostPointer = NULL;
  }
  return cudaSuccess;
}

PUBLIC cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                                   UNUSED cudaStream_t stream) {
  RETURN_UNLESS(need_context());
  if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDefault) copy_for_host(to, from, size);
  else copy_bytes(to, from, size);
  return cudaSuccess;
}
PUBLIC cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, size, kind, NULL);
}
PUBLIC cudaError_t cudaMemcpyPeerAsync(void *to, UNUSED int to_device, const void *from, UNUSED int from_device,
                                       size_t size, UNUSED cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToDevice, NULL);
}
PUBLIC cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                                     size_t height, UNUSED enum cudaMemcpyKind kind, UNUSED cudaStream_t stream) {
  RETURN_UNLESS(need_context());
  for (size_t row = 0; row < height && width * height <= largest_copy; row++)
    memmove((char *)to + row * to_pitch, (const char *)from + row * from_pitch, width);
  return cudaSuccess;
}
PUBLIC cudaError_t cudaMemsetAsync(void *to, int value, size_t size, UNUSED cudaStream_t stream) {
  RETURN_UNLESS(need_context());
  fill_bytes(to, value, size);
  return cudaSuccess;
}
PUBLIC cudaError_t cudaMemset(void *to, int value, size_t size) { return cudaMemsetAsync(to, value, size, NULL); }
PUBLIC cudaError_t cudaMemcpyToSymbol(UNUSED const void *symbol, UNUSED const void *from, UNUSED size_t size,
                                      UNUSED size_t offset, UNUSED enum cudaMemcpyKind kind) {
  return need_context();
}
PUBLIC cudaError_t cudaGetSymbolAddress(void **address, UNUSED const void *symbol) {
  RETURN_UNLESS(need_context());
  static char *shared_by_all_symbols;
  pthread_mutex_lock(&guard);
  if (!shared_by_all_symbols) shared_by_all_symbols = map(GRANULARITY, PROT_READ | PROT_WRITE);
  *address = shared_by_all_symbols;
  pthread_mutex_unlock(&guard);
  return *address ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

// ------------------------------------------------------- the driver's virtual memory: what expandable segments stand on

typedef struct {
  size_t size;
  int device, mappings_and_handle;
} Physical;
typedef struct {
  char *start;
  size_t size;
  Physical *physical;
} Mapping;
static Mapping *mappings;
static size_t num_mappings, room_for_mappings;

PUBLIC CUresult cuMemGetAllocationGranularity(size_t *size, UNUSED const CUmemAllocationProp *wanted,
                                              UNUSED CUmemAllocationGranularity_flags flags) {
  *size = GRANULARITY;
  return CUDA_SUCCESS;
}
PUBLIC CUresult cuMemAddressReserve(CUdeviceptr *start, size_t size, UNUSED size_t alignment, UNUSED CUdeviceptr at,
                                    UNUSED unsigned long long flags) {
  void *given;
  cudaError_t error = allocate(&given, size, RESERVED_ADDRESSES);
  *start = (CUdeviceptr)given;
  return (CUresult)error;
}
PUBLIC CUresult cuMemAddressFree(CUdeviceptr start, UNUSED size_t size) { return (CUresult)release((void *)start); }

PUBLIC CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *wanted,
                            UNUSED unsigned long long flags) {
  pthread_mutex_lock(&guard);
  int taken = take(as_present[wanted->location.id], size);
  pthread_mutex_unlock(&guard);
  if (!taken) return CUDA_ERROR_OUT_OF_MEMORY;
  Physical *made = malloc(sizeof *made);
  *made = (Physical){size, wanted->location.id, 1};
  *handle = (CUmemGenericAllocationHandle)(size_t)made;
  return CUDA_SUCCESS;
}

static void let_go(Physical *physical) {  // with the guard held
  if (--physical->mappings_and_handle) return;
  give_back(as_present[physical->device], physical->size);
  free(physical);
}

// Physical memory lives until its handle is released and its last mapping is gone.
PUBLIC CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  pthread_mutex_lock(&guard);
  let_go((Physical *)(size_t)handle);
  pthread_mutex_unlock(&guard);
  return CUDA_SUCCESS;
}

static int remap(CUdeviceptr start, size_t size, int protection) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  return mmap((void *)start, size, protection, flags, -1, 0) != MAP_FAILED;
}

PUBLIC CUresult cuMemMap(CUdeviceptr start, size_t size, UNUSED size_t offset, CUmemGenericAllocationHandle handle,
                         UNUSED unsigned long long flags) {
  if (!remap(start, size, PROT_READ | PROT_WRITE)) return CUDA_ERROR_OUT_OF_MEMORY;
  madvise((void *)start, size, MADV_NOHUGEPAGE);
  pthread_mutex_lock(&guard);
  if (num_mappings == room_for_mappings) {
    room_for_mappings = room_for_mappings ? room_for_mappings * 2 : 1024;
    mappings = realloc(mappings, room_for_mappings * sizeof *mappings);
    if (!mappings) abort();
  }
  Physical *physical = (Physical *)(size_t)handle;
  physical->mappings_and_handle++;
  mappings[num_mappings++] = (Mapping){(char *)start, size, physical};
  pthread_mutex_unlock(&guard);
  return CUDA_SUCCESS;
}

PUBLIC CUresult cuMemUnmap(CUdeviceptr start, size_t size) {
  remap(start, size, PROT_NONE);
  pthread_mutex_lock(&guard);
  size_t kept = 0;
  for (size_t each = 0; each < num_mappings; each++) {
    Mapping mapping = mappings[each];
    if (mapping.start >= (char *)start && mapping.start < (char *)start + size) let_go(mapping.physical);
    else mappings[kept++] = mapping;
  }
  num_mappings = kept;
  pthread_mutex_unlock(&guard);
  return CUDA_SUCCESS;
}

PUBLIC CUresult cuMemSetAccess(UNUSED CUdeviceptr start, UNUSED size_t size, UNUSED const CUmemAccessDesc *access,
                               UNUSED size_t count) {
  return CUDA_SUCCESS;
}
