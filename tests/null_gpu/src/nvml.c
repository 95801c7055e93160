// libnvidia-ml.so.1: the cards of the machine and who uses their memory. With NULL_GPU_NVML=none it cannot be
// initialised, as in a container without it; with NULL_GPU_MIG=1 memory may not be asked for, as inside a MIG slice.
#include "null_gpu.h"

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6,
       INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };

static int numbers[MOST_CARDS] = {0, 1, 2, 3, 4, 5, 6, 7};  // a handle points to its card's number
static int number_of(void *handle) { return *(int *)handle; }
static int is_set(const char *variable, const char *value) {
  const char *text = getenv(variable);
  return text && !strcmp(text, value);
}

PUBLIC int nvmlInit_v2(void) {
  return cards_present && !is_set("NULL_GPU_NVML", "none") ? OK : DRIVER_NOT_LOADED;
}
PUBLIC int nvmlInit(void) { return nvmlInit_v2(); }
PUBLIC int nvmlInitWithFlags(UNUSED unsigned flags) { return nvmlInit_v2(); }
PUBLIC int nvmlShutdown(void) { return OK; }
PUBLIC const char *nvmlErrorString(int error) {
  switch (error) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    default: return "Unknown Error";
  }
}
PUBLIC int nvmlSystemGetDriverVersion(char *text, unsigned room) {
  snprintf(text, room, "580.95.05");
  return OK;
}
PUBLIC int nvmlSystemGetCudaDriverVersion_v2(int *version) {
  *version = DRIVER_VERSION;
  return OK;
}
PUBLIC int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

PUBLIC int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = (unsigned)cards_present;
  return OK;
}
PUBLIC int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  if (index >= (unsigned)cards_present) return INVALID_ARGUMENT;
  *handle = &numbers[index];
  return OK;
}
PUBLIC int nvmlDeviceGetHandleByUUID(const char *wanted, void **handle) {
  for (int present = 0; present < cards_present; present++) {
    char uuid[64];
    uuid_text(present, uuid);
    if (!strcmp(uuid, wanted)) return nvmlDeviceGetHandleByIndex_v2((unsigned)present, handle);
  }
  return NOT_FOUND;
}
PUBLIC int nvmlDeviceGetHandleByPciBusId_v2(const char *wanted, void **handle) {
  unsigned domain, bus;
  if (sscanf(wanted, "%x:%x", &domain, &bus) != 2) return INVALID_ARGUMENT;
  for (int present = 0; present < cards_present; present++)
    if ((unsigned)pci_bus(present) == bus) return nvmlDeviceGetHandleByIndex_v2((unsigned)present, handle);
  return NOT_FOUND;
}
PUBLIC int nvmlDeviceGetIndex(void *handle, unsigned *index) {
  *index = (unsigned)number_of(handle);
  return OK;
}
PUBLIC int nvmlDeviceGetName(UNUSED void *handle, char *name, unsigned room) {
  snprintf(name, room, "%s", card.name);
  return OK;
}
PUBLIC int nvmlDeviceGetUUID(void *handle, char *text, unsigned room) {
  char uuid[64];
  uuid_text(number_of(handle), uuid);
  snprintf(text, room, "%s", uuid);
  return OK;
}
PUBLIC int nvmlDeviceGetCudaComputeCapability(UNUSED void *handle, int *major, int *minor) {
  *major = card.capability / 10;
  *minor = card.capability % 10;
  return OK;
}
PUBLIC int nvmlDeviceGetMigMode(UNUSED void *handle, unsigned *now, unsigned *after) {
  *now = *after = (unsigned)is_set("NULL_GPU_MIG", "1");
  return OK;
}

typedef struct {
  unsigned long long total, left, used;
} MemoryInfo;
typedef struct {
  unsigned version;
  unsigned long long total, reserved, left, used;
} MemoryInfo2;

// The first version counts what the driver keeps for itself as used, the second apart.
PUBLIC int nvmlDeviceGetMemoryInfo(void *handle, MemoryInfo *info) {
  if (is_set("NULL_GPU_MIG", "1")) return NO_PERMISSION;
  info->total = card.memory + card.kept_by_driver;
  info->used = used_by_everybody(number_of(handle)) + card.kept_by_driver;
  info->left = info->total - info->used;
  return OK;
}
PUBLIC int nvmlDeviceGetMemoryInfo_v2(void *handle, MemoryInfo2 *info) {
  if (is_set("NULL_GPU_MIG", "1")) return NO_PERMISSION;
  info->total = card.memory + card.kept_by_driver;
  info->reserved = card.kept_by_driver;
  info->used = used_by_everybody(number_of(handle));
  info->left = info->total - info->used - info->reserved;
  return OK;
}

// Sensors of a card at rest.
enum { CLOCK_MEM = 2 };
PUBLIC int nvmlDeviceGetClockInfo(UNUSED void *handle, int which, unsigned *megahertz) {
  *megahertz = which == CLOCK_MEM ? 2619 : 1980;
  return OK;
}
PUBLIC int nvmlDeviceGetMaxClockInfo(void *handle, int which, unsigned *megahertz) {
  return nvmlDeviceGetClockInfo(handle, which, megahertz);
}
PUBLIC int nvmlDeviceGetTemperature(UNUSED void *handle, UNUSED int sensor, unsigned *celsius) {
  *celsius = 40;
  return OK;
}
PUBLIC int nvmlDeviceGetTemperatureV(UNUSED void *handle, unsigned *version_sensor_and_celsius) {
  version_sensor_and_celsius[2] = 40;
  return OK;
}
PUBLIC int nvmlDeviceGetPowerUsage(UNUSED void *handle, unsigned *milliwatts) {
  *milliwatts = 120000;
  return OK;
}
PUBLIC int nvmlDeviceGetCurrentClocksEventReasons(UNUSED void *handle, unsigned long long *reasons) {
  *reasons = 0;
  return OK;
}
PUBLIC int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *reasons) {
  return nvmlDeviceGetCurrentClocksEventReasons(handle, reasons);
}
PUBLIC int nvmlDeviceGetUtilizationRates(UNUSED void *handle, unsigned *gpu_and_memory) {
  gpu_and_memory[0] = gpu_and_memory[1] = 0;
  return OK;
}

// nvmlProcessInfo_t without and with the numbers of a MIG slice.
typedef struct {
  unsigned process;
  unsigned long long used;
} Process1;
typedef struct {
  unsigned process;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
} Process2;
enum { MOST_PROCESSES = 64 };

static int running(void *handle, unsigned *count, void *out, int has_instances) {
  int processes[MOST_PROCESSES];
  size_t bytes[MOST_PROCESSES];
  unsigned room = *count < MOST_PROCESSES ? *count : MOST_PROCESSES;
  *count = users(number_of(handle), room, processes, bytes);
  for (unsigned each = 0; each < *count && each < room && out; each++) {
    if (has_instances) ((Process2 *)out)[each] = (Process2){(unsigned)processes[each], bytes[each], ~0u, ~0u};
    else ((Process1 *)out)[each] = (Process1){(unsigned)processes[each], bytes[each]};
  }
  return *count > room ? INSUFFICIENT_SIZE : OK;
}
PUBLIC int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned *count, void *out) {
  return running(handle, count, out, 0);
}
PUBLIC int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, void *out) {
  return running(handle, count, out, 1);
}
PUBLIC int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, void *out) {
  return running(handle, count, out, 1);
}

PUBLIC int nvmlDeviceGetNvLinkRemoteDeviceType(UNUSED void *handle, UNUSED unsigned link, UNUSED int *type) {
  return NOT_SUPPORTED;
}
PUBLIC int nvmlDeviceGetNvLinkRemotePciInfo_v2(UNUSED void *handle, UNUSED unsigned link, UNUSED void *info) {
  return NOT_SUPPORTED;
}
PUBLIC int nvmlDeviceGetGpuFabricInfoV(UNUSED void *handle, UNUSED void *info) { return NOT_SUPPORTED; }
