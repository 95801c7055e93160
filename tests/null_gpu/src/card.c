// The card that is pretended, and who uses how much of it.
//
// Settings come from the environment (see README.md). Use is counted in a file in shared memory, one row for each
// process, so that all processes with the same NULL_GPU_ID see one machine, as the driver and NVML would tell it.
#include "null_gpu.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

// Facts of each architecture's best known card: CUDA C++ Programming Guide, "Technical Specifications per Compute
// Capability", and the vendor's data sheets for the number of multiprocessors, second-level cache and bus.
static const Card architectures[] = {
    {70, 80, 2048, 32, 98304, 98304, 6 << 20, 4096, "Tesla V100-SXM2-16GB", 16144 * MIB, 0, 0, 0},
    {75, 40, 1024, 16, 65536, 65536, 4 << 20, 256, "Tesla T4", 14914 * MIB, 0, 0, 0},
    {80, 108, 2048, 32, 167936, 166912, 40 << 20, 5120, "NVIDIA A100-SXM4-80GB", 81153 * MIB, 0, 0, 0},
    {86, 82, 1536, 16, 102400, 101376, 6 << 20, 384, "NVIDIA GeForce RTX 3090", 24124 * MIB, 0, 0, 0},
    {89, 128, 1536, 24, 102400, 101376, 72 << 20, 384, "NVIDIA GeForce RTX 4090", 24080 * MIB, 0, 0, 0},
    {90, 132, 2048, 32, 233472, 232448, 50 << 20, 5120, "NVIDIA H100 80GB HBM3", 81004 * MIB, 0, 0, 0},
    {100, 148, 2048, 32, 233472, 232448, 126 << 20, 8192, "NVIDIA B200", 182642 * MIB, 0, 0, 0},
    {120, 170, 1536, 24, 102400, 101376, 96 << 20, 512, "NVIDIA GeForce RTX 5090", 32109 * MIB, 0, 0, 0},
};
#define NUM_ARCHITECTURES (sizeof architectures / sizeof *architectures)
#define DEFAULT_CAPABILITY 90

Card card;
int cards_present, cards_visible, as_present[MOST_CARDS], makes_finite;
size_t largest_copy;
static int logs;

typedef struct {
  _Atomic int process;
  _Atomic long long used[MOST_CARDS];
} Row;
#define ROWS 512
static Row *table;
static _Atomic int own_row = -1, own_row_process;

void tell(const char *format, ...) {
  if (!logs) return;
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "null GPU [%d]: %s\n", getpid(), text);
}

// Every symbol that is not written by hand ends here, once in the log with its name.
int null_gpu_refuse(const char *symbol, int answer, atomic_int *told) {
  if (!atomic_exchange(told, 1)) tell("%s is not implemented; it answers %d", symbol, answer);
  return answer;
}

static size_t number(const char *variable, size_t otherwise) {
  const char *text = getenv(variable);
  return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

void uuid_bytes(int present, unsigned char bytes[16]) {
  for (int place = 0; place < 16; place++) bytes[place] = (unsigned char)(0x30 + 5 * place);
  bytes[15] = (unsigned char)(0xC0 + present);
}

void uuid_text(int present, char text[64]) {
  unsigned char bytes[16];
  uuid_bytes(present, bytes);
  int length = sprintf(text, "GPU-");
  for (int place = 0; place < 16; place++) {
    int starts_group = place == 4 || place == 6 || place == 8 || place == 10;
    length += sprintf(text + length, starts_group ? "-%02x" : "%02x", bytes[place]);
  }
}

int pci_bus(int present) { return 0x20 + 0x10 * present; }

// CUDA_VISIBLE_DEVICES: numbers or beginnings of UUIDs; what follows one that is not there is not visible either.
static void choose_visible(void) {
  const char *wanted = getenv("CUDA_VISIBLE_DEVICES");
  if (!wanted) {
    for (cards_visible = 0; cards_visible < cards_present; cards_visible++) as_present[cards_visible] = cards_visible;
    return;
  }
  char copy[512];
  snprintf(copy, sizeof copy, "%s", wanted);
  char *rest = copy, *word;
  while ((word = strsep(&rest, ",")) && cards_visible < MOST_CARDS) {
    word += strspn(word, " ");
    int chosen = -1;
    char *end;
    long given = strtol(word, &end, 10);
    if (!strncmp(word, "MIG-", 4)) {
      chosen = 0;  // any slice is the first card
    } else if (end != word && (*end == '\0' || *end == ' ')) {
      chosen = (int)given;
    } else {
      for (int present = cards_present - 1; present >= 0 && *word; present--) {
        char uuid[64];
        uuid_text(present, uuid);
        if (!strncmp(uuid, word, strlen(word))) chosen = present;
      }
    }
    if (chosen < 0 || chosen >= cards_present) return;
    as_present[cards_visible++] = chosen;
  }
}

__attribute__((constructor)) static void read_settings(void) {
  int major = DEFAULT_CAPABILITY / 10, minor = DEFAULT_CAPABILITY % 10;
  if (getenv("NULL_GPU_CAPABILITY")) sscanf(getenv("NULL_GPU_CAPABILITY"), "%d.%d", &major, &minor);
  const Card *chosen = NULL;
  for (size_t each = 0; each < NUM_ARCHITECTURES; each++)
    if (architectures[each].capability == 10 * major + minor) chosen = &architectures[each];
  if (!chosen) {
    fprintf(stderr, "null GPU: there is no card of compute capability %d.%d in card.c\n", major, minor);
    _exit(2);
  }
  card = *chosen;
  if (getenv("NULL_GPU_NAME")) card.name = strdup(getenv("NULL_GPU_NAME"));
  card.memory = number("NULL_GPU_MEMORY_MIB", card.memory / MIB) * MIB;
  card.context = number("NULL_GPU_CONTEXT_MIB", 500) * MIB;
  card.kept_by_driver = number("NULL_GPU_KEPT_BY_DRIVER_MIB", 555) * MIB;
  card.communicator = number("NULL_GPU_COMMUNICATOR_MIB", 688) * MIB;
  largest_copy = number("NULL_GPU_LARGEST_COPY", MIB);
  makes_finite = (int)number("NULL_GPU_FINITE", 1);
  logs = (int)number("NULL_GPU_LOG", 0);
  size_t wanted = number("NULL_GPU_CARDS", 1);
  cards_present = (int)(wanted < MOST_CARDS ? wanted : MOST_CARDS);
  choose_visible();

  char path[256];
  const char *id = getenv("NULL_GPU_ID");
  snprintf(path, sizeof path, "/dev/shm/null-gpu-%d-%s", (int)getuid(), id && *id ? id : "default");
  int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file >= 0 && !ftruncate(file, ROWS * sizeof(Row)))
    table = mmap(NULL, ROWS * sizeof(Row), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file >= 0) close(file);
  if (!table || table == MAP_FAILED) {
    fprintf(stderr, "null GPU: %s cannot be used to count memory\n", path);
    _exit(2);
  }
}

static int is_running(int process) {
  char path[64], line[512] = "";
  snprintf(path, sizeof path, "/proc/%d/stat", process);
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  char *read = fgets(line, sizeof line, file);
  fclose(file);
  // The state is the letter after the name, which may hold anything but is in brackets.
  const char *state = read ? strrchr(line, ')') : NULL;
  return state && state[1] == ' ' && state[2] != 'Z' && state[2] != 'X';
}

static void clear(Row *row) {
  for (int present = 0; present < MOST_CARDS; present++) row->used[present] = 0;
}

// This process's row. One left by a process that is gone is taken only where no row is free.
static Row *row_of_this_process(void) {
  int self = getpid();
  if (own_row >= 0 && own_row_process == self) return &table[own_row];
  for (int reclaim = 0; reclaim <= 1; reclaim++) {
    for (int each = 0; each < ROWS; each++) {
      int owner = table[each].process;
      if (owner != self) {
        if (owner && !(reclaim && !is_running(owner))) continue;
        if (!atomic_compare_exchange_strong(&table[each].process, &owner, self)) continue;
      }
      clear(&table[each]);
      own_row_process = self;
      own_row = each;
      return &table[each];
    }
  }
  fprintf(stderr, "null GPU: more than %d processes use it\n", ROWS);
  abort();
}

// Calls visit for each process that uses a card; rows of processes that are gone are cleared on the way.
static size_t sum_of_rows(int present, unsigned room, unsigned *count, int *processes, size_t *bytes) {
  long long sum = 0;
  for (int each = 0; each < ROWS; each++) {
    int owner = table[each].process;
    long long used = table[each].used[present];
    if (!owner) continue;
    if (owner != getpid() && !is_running(owner)) {
      atomic_compare_exchange_strong(&table[each].process, &owner, 0);
      continue;
    }
    sum += used;
    if (!used || !count) continue;
    if (*count < room) processes[*count] = owner, bytes[*count] = (size_t)used;
    ++*count;
  }
  return sum > 0 ? (size_t)sum : 0;
}

size_t used_by_everybody(int present) { return sum_of_rows(present, 0, NULL, NULL, NULL); }

unsigned users(int present, unsigned room, int *processes, size_t *bytes) {
  unsigned count = 0;
  sum_of_rows(present, room, &count, processes, bytes);
  return count;
}

int take(int present, size_t bytes) {
  if (used_by_everybody(present) + bytes > card.memory) return 0;
  row_of_this_process()->used[present] += (long long)bytes;
  return 1;
}

void give_back(int present, size_t bytes) { row_of_this_process()->used[present] -= (long long)bytes; }

__attribute__((destructor)) static void leave(void) {
  if (own_row >= 0 && own_row_process == getpid()) table[own_row].process = 0;
}
