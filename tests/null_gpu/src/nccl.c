// NCCL: processes that meet in a file of shared memory. What is small is really exchanged, so that what they decide
// together is the same in all of them; large tensors hold nothing and stay so.
#include "null_gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define SLOT MIB            // bytes that a process can hand over at once
#define LONGEST_WAIT 600.0  // seconds for the others: as long as torch waits for them

typedef struct {
  atomic_int arrived, meetings;
  atomic_int splits;  // communicators that were made of this one
} Meeting;

typedef struct {  // from one process to one other
  atomic_int is_full;
  char data[SLOT];
} Box;

struct ncclComm {
  char name[64];  // of the file
  int rank, size, device;
  size_t bytes;
  Meeting *meeting;
  char *slots;
  Box *boxes;
};

static _Thread_local char last_error[128] = "";
static atomic_int has_buffers;

static ncclResult_t fails(ncclResult_t answer, const char *words) {
  snprintf(last_error, sizeof last_error, "%s", words);
  tell("NCCL: %s", words);
  return answer;
}

static char *slot_of(ncclComm_t comm, int rank) { return comm->slots + (size_t)rank * SLOT; }

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

// Until every process of the communicator is here.
static ncclResult_t meet(ncclComm_t comm) {
  Meeting *meeting = comm->meeting;
  int before = meeting->meetings;
  if (atomic_fetch_add(&meeting->arrived, 1) + 1 == comm->size) {
    meeting->arrived = 0;
    meeting->meetings++;
    return ncclSuccess;
  }
  const struct timespec pause = {.tv_nsec = 50000};
  for (double start = now(); meeting->meetings == before; nanosleep(&pause, NULL))
    if (now() - start > LONGEST_WAIT) return fails(ncclRemoteError, "another process did not come");
  return ncclSuccess;
}

// ------------------------------------------------------------------------------------------------------ communicators

static ncclResult_t join(ncclComm_t *joined, const char *name, int size, int rank) {
  if (need_context()) return fails(ncclUnhandledCudaError, "Cuda failure 'initialization error'");
  if (!atomic_exchange(&has_buffers, 1) && !take(as_present[current_device], card.communicator)) {
    has_buffers = 0;
    return fails(ncclUnhandledCudaError, "Failed to CUDA calloc 8388608 bytes");
  }
  ncclComm_t comm = calloc(1, sizeof *comm);
  snprintf(comm->name, sizeof comm->name, "%s", name);
  comm->rank = rank, comm->size = size, comm->device = current_device;
  comm->bytes = PAGE + (size_t)size * SLOT + (size_t)size * (size_t)size * sizeof(Box);
  int file = open(comm->name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  void *shared = MAP_FAILED;
  if (file >= 0 && !ftruncate(file, (off_t)comm->bytes))
    shared = mmap(NULL, comm->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file >= 0) close(file);
  if (shared == MAP_FAILED) {
    free(comm);
    return fails(ncclSystemError, strerror(errno));
  }
  comm->meeting = shared;
  comm->slots = (char *)shared + PAGE;
  comm->boxes = (Box *)slot_of(comm, size);
  ncclResult_t answer = meet(comm);
  if (rank == 0) unlink(comm->name);
  *joined = comm;
  return answer;
}

static ncclResult_t leave(ncclComm_t comm) {
  munmap(comm->meeting, comm->bytes);
  free(comm);
  return ncclSuccess;
}

PUBLIC ncclResult_t ncclGetVersion(int *version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
PUBLIC const char *ncclGetErrorString(ncclResult_t answer) {
  switch (answer) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInvalidUsage: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError: return "remote process exited or there was a network error";
    default: return "internal error - please report this issue to the NCCL developers";
  }
}
PUBLIC const char *ncclGetLastError(UNUSED ncclComm_t comm) { return last_error; }

PUBLIC ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  uint64_t drawn = 0;
  if (getrandom(&drawn, sizeof drawn, 0) != sizeof drawn) return fails(ncclSystemError, strerror(errno));
  snprintf(id->internal, sizeof id->internal, "/dev/shm/null-nccl-%d-%016llx", (int)getuid(),
           (unsigned long long)drawn);
  return ncclSuccess;
}
PUBLIC ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank,
                                           UNUSED ncclConfig_t *config) {
  return join(comm, id.internal, size, rank);
}
PUBLIC ncclResult_t ncclCommInitRank(ncclComm_t *comm, int size, ncclUniqueId id, int rank) {
  return join(comm, id.internal, size, rank);
}
// Processes of one colour are together, in the order of their keys.
PUBLIC ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *made, UNUSED ncclConfig_t *config) {
  *(int *)slot_of(comm, comm->rank) = color;
  *((int *)slot_of(comm, comm->rank) + 1) = key;
  ncclResult_t answer = meet(comm);
  if (answer) return answer;
  int size = 0, rank = 0, number = comm->meeting->splits;
  for (int other = 0; other < comm->size; other++) {
    const int *wish = (int *)slot_of(comm, other);
    if (wish[0] != color) continue;
    size++;
    rank += wish[1] < key || (wish[1] == key && other < comm->rank);
  }
  if ((answer = meet(comm))) return answer;
  if (comm->rank == 0) comm->meeting->splits++;
  if ((answer = meet(comm))) return answer;
  *made = NULL;
  if (color == NCCL_SPLIT_NOCOLOR) return ncclSuccess;
  char name[sizeof comm->name + 32];
  snprintf(name, sizeof name, "%s-%d-%d", comm->name, number, color);
  return join(made, name, size, rank);
}
PUBLIC ncclResult_t ncclCommFinalize(UNUSED ncclComm_t comm) { return ncclSuccess; }
PUBLIC ncclResult_t ncclCommDestroy(ncclComm_t comm) { return leave(comm); }
PUBLIC ncclResult_t ncclCommAbort(ncclComm_t comm) { return leave(comm); }
PUBLIC ncclResult_t ncclCommGetAsyncError(UNUSED ncclComm_t comm, ncclResult_t *error) {
  *error = ncclSuccess;
  return ncclSuccess;
}
PUBLIC ncclResult_t ncclCommCount(ncclComm_t comm, int *size) {
  *size = comm->size;
  return ncclSuccess;
}
PUBLIC ncclResult_t ncclCommUserRank(ncclComm_t comm, int *rank) {
  *rank = comm->rank;
  return ncclSuccess;
}
PUBLIC ncclResult_t ncclCommCuDevice(ncclComm_t comm, int *device) {
  *device = comm->device;
  return ncclSuccess;
}
PUBLIC ncclResult_t ncclCommRegister(UNUSED ncclComm_t comm, UNUSED void *buffer, UNUSED size_t size, void **handle) {
  *handle = comm;
  return ncclSuccess;
}
PUBLIC ncclResult_t ncclCommDeregister(UNUSED ncclComm_t comm, UNUSED void *handle) { return ncclSuccess; }
PUBLIC ncclResult_t ncclMemAlloc(void **pointer, size_t size) {
  return allocate(pointer, size, ON_CARD) ? fails(ncclUnhandledCudaError, "Cuda failure 2 'out of memory'")
                                          : ncclSuccess;
}
PUBLIC ncclResult_t ncclMemFree(void *pointer) { return release(pointer) ? ncclInvalidArgument : ncclSuccess; }

// -------------------------------------------------------------------------------------------------------- collectives

// Carried out one after the other as they are called, in a group, too: every process calls them in the same order.

// Handles of operators that were made are not told apart: all of them are sums times a number that is one here.
PUBLIC ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t *reduction, UNUSED void *factor, UNUSED ncclDataType_t type,
                                             UNUSED ncclScalarResidence_t residence, UNUSED ncclComm_t comm) {
  *reduction = ncclNumOps;
  return ncclSuccess;
}
PUBLIC ncclResult_t ncclRedOpDestroy(UNUSED ncclRedOp_t reduction, UNUSED ncclComm_t comm) { return ncclSuccess; }

static size_t bytes_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64: return 8;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32: return 4;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    default: return 1;
  }
}

#define COMBINE(type)                                                      \
  for (size_t place = 0; place < count; place++) {                         \
    type *sum = (type *)into + place, value = ((const type *)from)[place]; \
    switch (reduction) {                                                   \
      case ncclProd: *sum *= value; break;                                 \
      case ncclMax: *sum = value > *sum ? value : *sum; break;             \
      case ncclMin: *sum = value < *sum ? value : *sum; break;             \
      default: *sum += value; break;                                       \
    }                                                                      \
  }                                                                        \
  return

// Floating-point numbers of 16 and 8 bits, which C has no arithmetic for, are the first process's.
static void combine(void *into, const void *from, size_t count, ncclDataType_t type, ncclRedOp_t reduction) {
  switch (type) {
    case ncclInt8: COMBINE(int8_t);
    case ncclUint8: COMBINE(uint8_t);
    case ncclInt32: COMBINE(int32_t);
    case ncclUint32: COMBINE(uint32_t);
    case ncclInt64: COMBINE(int64_t);
    case ncclUint64: COMBINE(uint64_t);
    case ncclFloat32: COMBINE(float);
    case ncclFloat64: COMBINE(double);
    default: return;
  }
}

static void average(void *of, size_t count, ncclDataType_t type, int size) {
  for (size_t place = 0; place < count; place++) {
    if (type == ncclFloat32) ((float *)of)[place] /= (float)size;
    if (type == ncclFloat64) ((double *)of)[place] /= size;
  }
}

// Hands over what fits into a slot, and lets ``take_all`` read what all handed over. The second meeting keeps the slots
// as they are until everybody has read them.
#define EXCHANGE(comm, send, bytes, take_all)         \
  do {                                                \
    if ((bytes) > SLOT) return ncclSuccess;           \
    memcpy(slot_of(comm, (comm)->rank), send, bytes); \
    ncclResult_t answer = meet(comm);                 \
    if (answer) return answer;                        \
    take_all;                                         \
    return meet(comm);                                \
  } while (0)

static void reduce_slots(ncclComm_t comm, void *receive, size_t offset, size_t count, ncclDataType_t type,
                         ncclRedOp_t reduction) {
  memcpy(receive, slot_of(comm, 0) + offset, count * bytes_of(type));
  for (int rank = 1; rank < comm->size; rank++)
    combine(receive, slot_of(comm, rank) + offset, count, type, reduction);
  if (reduction == ncclAvg) average(receive, count, type, comm->size);
}

PUBLIC ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type,
                                  ncclRedOp_t reduction, ncclComm_t comm, UNUSED cudaStream_t stream) {
  EXCHANGE(comm, send, count * bytes_of(type), reduce_slots(comm, receive, 0, count, type, reduction));
}
PUBLIC ncclResult_t ncclReduce(const void *send, void *receive, size_t count, ncclDataType_t type, ncclRedOp_t reduction,
                               int root, ncclComm_t comm, UNUSED cudaStream_t stream) {
  EXCHANGE(comm, send, count * bytes_of(type),
           if (comm->rank == root) reduce_slots(comm, receive, 0, count, type, reduction));
}
PUBLIC ncclResult_t ncclReduceScatter(const void *send, void *receive, size_t count, ncclDataType_t type,
                                      ncclRedOp_t reduction, ncclComm_t comm, UNUSED cudaStream_t stream) {
  size_t part = count * bytes_of(type);
  EXCHANGE(comm, send, part * (size_t)comm->size,
           reduce_slots(comm, receive, part * (size_t)comm->rank, count, type, reduction));
}
PUBLIC ncclResult_t ncclAllGather(const void *send, void *receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                                  UNUSED cudaStream_t stream) {
  size_t part = count * bytes_of(type);
  EXCHANGE(comm, send, part, for (int rank = 0; rank < comm->size; rank++)
                                 memcpy((char *)receive + part * (size_t)rank, slot_of(comm, rank), part));
}
PUBLIC ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type, int root,
                                  ncclComm_t comm, UNUSED cudaStream_t stream) {
  size_t bytes = count * bytes_of(type);
  EXCHANGE(comm, comm->rank == root ? send : receive, bytes, memcpy(receive, slot_of(comm, root), bytes));
}
PUBLIC ncclResult_t ncclBcast(void *buffer, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                              cudaStream_t stream) {
  return ncclBroadcast(buffer, buffer, count, type, root, comm, stream);
}

// ----------------------------------------------------------------------------------------------------------- messages

#define MOST_MESSAGES 512  // of a group

typedef struct {
  ncclComm_t comm;
  void *data;
  size_t bytes;
  int peer;
  int is_sent;  // or else received
  int is_done;
} Message;

static _Thread_local Message messages[MOST_MESSAGES];
static _Thread_local int number_of_messages, depth_of_groups;

// True if a message has been put into its box, or taken out of it: a full one is waited for, or an empty one.
static int passes(Message *message) {
  ncclComm_t comm = message->comm;
  int from = message->is_sent ? comm->rank : message->peer, to = message->is_sent ? message->peer : comm->rank;
  Box *box = &comm->boxes[from * comm->size + to];
  if (box->is_full == message->is_sent) return 0;
  if (message->is_sent)
    memcpy(box->data, message->data, message->bytes);
  else
    memcpy(message->data, box->data, message->bytes);
  box->is_full = message->is_sent;
  return 1;
}

// True for one that has to wait for an earlier one on the same way.
static int is_behind(const Message *message) {
  for (const Message *earlier = messages; earlier < message; earlier++)
    if (!earlier->is_done && earlier->comm == message->comm && earlier->peer == message->peer &&
        earlier->is_sent == message->is_sent)
      return 1;
  return 0;
}

// Those of a group pass in whatever order they can: none waits for one that its peer has not come to yet.
static ncclResult_t pass_all(void) {
  const struct timespec pause = {.tv_nsec = 50000};
  int left = number_of_messages;
  for (double start = now(); left; nanosleep(&pause, NULL)) {
    for (Message *message = messages; message < messages + number_of_messages; message++) {
      if (message->is_done || is_behind(message)) continue;
      message->is_done = passes(message);
      left -= message->is_done;
    }
    if (now() - start > LONGEST_WAIT) break;
  }
  number_of_messages = 0;
  return left ? fails(ncclRemoteError, "another process did not come") : ncclSuccess;
}

static ncclResult_t message_to(ncclComm_t comm, void *data, size_t bytes, int peer, int is_sent) {
  if (bytes > SLOT) return ncclSuccess;
  if (number_of_messages == MOST_MESSAGES) return fails(ncclInternalError, "a group of too many messages");
  messages[number_of_messages++] = (Message){comm, data, bytes, peer, is_sent, 0};
  return depth_of_groups ? ncclSuccess : pass_all();
}

PUBLIC ncclResult_t ncclGroupStart(void) {
  depth_of_groups++;
  return ncclSuccess;
}
PUBLIC ncclResult_t ncclGroupEnd(void) { return --depth_of_groups ? ncclSuccess : pass_all(); }

PUBLIC ncclResult_t ncclSend(const void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                             UNUSED cudaStream_t stream) {
  return message_to(comm, (void *)data, count * bytes_of(type), peer, 1);
}
PUBLIC ncclResult_t ncclRecv(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                             UNUSED cudaStream_t stream) {
  return message_to(comm, data, count * bytes_of(type), peer, 0);
}
