// cuDNN's graph API, as far as attention needs it. Its frontend is compiled into torch and real; the backend here keeps
// the attributes that descriptors are given, and every plan can be had and needs no workspace.
#include "null_gpu.h"

#include <stdint.h>

typedef struct Attribute {
  int name, type;
  int64_t count;
  void *values;
  struct Attribute *next;
} Attribute;
typedef struct {
  Attribute *first;
} Descriptor;

enum { TYPE_HANDLE = 0, TYPE_BOOLEAN = 2, TYPE_INT64 = 3, TYPE_DOUBLE = 5, TYPE_VOID_PTR = 6, TYPE_BACKEND_DESCRIPTOR = 15,
       TYPE_CHAR = 24, TYPE_FRACTION = 26 };  // cudnnBackendAttributeType_t (cudnn_graph_v9.h)

static size_t size_of(int type) {
  switch (type) {
    case TYPE_HANDLE:
    case TYPE_INT64:
    case TYPE_DOUBLE:
    case TYPE_VOID_PTR:
    case TYPE_BACKEND_DESCRIPTOR: return 8;
    case TYPE_BOOLEAN:
    case TYPE_CHAR: return 1;
    case TYPE_FRACTION: return 16;
    default: return 4;  // enumerations and int32
  }
}

static Attribute *attribute_of(Descriptor *descriptor, int name) {
  Attribute *each = descriptor->first;
  while (each && each->name != name) each = each->next;
  return each;
}

PUBLIC int cudnnCreate(void **handle) {
  const int not_initialized = 1001;  // CUDNN_STATUS_NOT_INITIALIZED
  if (need_context()) return not_initialized;
  *handle = calloc(1, sizeof(void *));
  return 0;
}
PUBLIC int cudnnDestroy(void *handle) {
  free(handle);
  return 0;
}
PUBLIC int cudnnSetStream(void *handle, void *stream) {
  *(void **)handle = stream;
  return 0;
}
PUBLIC int cudnnGetStream(void *handle, void **stream) {
  *stream = *(void **)handle;
  return 0;
}

PUBLIC int cudnnBackendCreateDescriptor(UNUSED int type, void **made) {
  *made = calloc(1, sizeof(Descriptor));
  return 0;
}
PUBLIC int cudnnBackendDestroyDescriptor(void *descriptor) {
  if (!descriptor) return 0;
  for (Attribute *each = ((Descriptor *)descriptor)->first; each;) {
    Attribute *next = each->next;
    free(each->values);
    free(each);
    each = next;
  }
  free(descriptor);
  return 0;
}
PUBLIC int cudnnBackendFinalize(UNUSED void *descriptor) { return 0; }
PUBLIC int cudnnBackendExecute(UNUSED void *handle, UNUSED void *plan, UNUSED void *pointers) { return 0; }

PUBLIC int cudnnBackendSetAttribute(void *descriptor, int name, int type, int64_t count, const void *values) {
  Attribute *kept = attribute_of(descriptor, name);
  if (!kept) {
    kept = calloc(1, sizeof *kept);
    kept->next = ((Descriptor *)descriptor)->first;
    ((Descriptor *)descriptor)->first = kept;
  }
  size_t size = (size_t)count * size_of(type);
  free(kept->values);
  *kept = (Attribute){name, type, count, malloc(size + 1), kept->next};
  if (values) memcpy(kept->values, values, size);
  return 0;
}

// Notes that an engine or a plan may carry; there are none.
static int is_list_of_notes(int name) {
  enum { ENGINECFG_INTERMEDIATE_INFO = 301, ENGINECFG_KNOB_CHOICES = 302, EXECUTION_PLAN_COMPUTED_INTERMEDIATE_UIDS = 405,
         ENGINE_KNOB_INFO = 1302, ENGINE_NUMERICAL_NOTE = 1303, ENGINE_BEHAVIOR_NOTE = 1305 };
  return name == ENGINECFG_INTERMEDIATE_INFO || name == ENGINECFG_KNOB_CHOICES ||
         name == EXECUTION_PLAN_COMPUTED_INTERMEDIATE_UIDS || name == ENGINE_KNOB_INFO ||
         name == ENGINE_NUMERICAL_NOTE || name == ENGINE_BEHAVIOR_NOTE;
}

// What was set, else one value of zero: an engine configuration that exists, a plan without workspace.
PUBLIC int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t wanted, int64_t *count,
                                    void *values) {
  const Attribute *kept = attribute_of(descriptor, name);
  if (kept && kept->type == type && type != TYPE_BACKEND_DESCRIPTOR) {
    int64_t copied = wanted < kept->count ? wanted : kept->count;
    if (count) *count = kept->count;
    if (values) memcpy(values, kept->values, (size_t)copied * size_of(type));
    return 0;
  }
  int64_t answers = is_list_of_notes(name) ? 0 : 1;
  if (count) *count = answers;
  if (values && answers && wanted > 0 && type != TYPE_BACKEND_DESCRIPTOR) memset(values, 0, size_of(type));
  return 0;
}
