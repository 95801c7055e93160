// What the parts of the null GPU share: the card, who uses how much of it, and its memory.
#pragma once
#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))
#define UNUSED __attribute__((unused))
#define MOST_CARDS 8
#define MIB ((size_t)1 << 20)
#define PAGE ((size_t)4096)
#define GRANULARITY (2 * MIB)  // of a card's physical memory
#define DRIVER_VERSION 13000

// ------------------------------------------------------------------------------------------------------------- card.c

typedef struct {
  int capability;  // 90 for 9.0
  int multiprocessors, threads_per_multiprocessor, blocks_per_multiprocessor;
  int shared_per_multiprocessor, shared_per_block;  // bytes; the second by opting in
  int l2_bytes, bus_bits;
  const char *name;
  size_t memory, context, kept_by_driver, communicator;  // bytes
} Card;

extern Card card;          // all cards of the machine are alike
extern int cards_present;  // in the machine
extern int cards_visible;  // to this process
extern int as_present[MOST_CARDS];  // visible number -> number in the machine
extern size_t largest_copy;         // bytes; what is larger is not carried out
extern int makes_finite;            // numbers that the host reads back are finite

void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));  // with NULL_GPU_LOG=1
PUBLIC int null_gpu_refuse(const char *symbol, int answer, atomic_int *told);
void uuid_bytes(int present, unsigned char bytes[16]);
void uuid_text(int present, char text[64]);
int pci_bus(int present);

size_t used_by_everybody(int present);
int take(int present, size_t bytes);  // 0 where there is not so much left
void give_back(int present, size_t bytes);
unsigned users(int present, unsigned room, int *processes, size_t *bytes);

// ---------------------------------------------------------------------------------------------------------- memory.c

typedef enum { ON_CARD = 1, ON_HOST, MANAGED, RESERVED_ADDRESSES } Place;
typedef struct {
  char *start;
  size_t size, charged;  // bytes; the second counts as used of the card
  Place place;
  int device;
} Block;

cudaError_t allocate(void **pointer, size_t size, Place place);
cudaError_t release(void *pointer);
int find_block(const void *pointer, Block *found);
void copy_bytes(void *to, const void *from, size_t size);
void copy_for_host(void *to, const void *from, size_t size);
void fill_bytes(void *to, int value, size_t size);

// --------------------------------------------------------------------------------------------------------- runtime.c

cudaError_t failed(cudaError_t error);   // remembers it as the last error
cudaError_t need_driver(void);           // initialised, in this process
cudaError_t need_context(void);          // and the current device is opened
int has_context(int device);
extern _Thread_local int current_device;
int device_attribute(int attribute, int device);
int blocks_that_fit(int threads, size_t shared);
const char *error_text(int code, int in_words);
void *own_symbol(const char *name);

#define RETURN_UNLESS(ready)             \
  do {                                   \
    cudaError_t not_ready = (ready);     \
    if (not_ready) return not_ready;     \
  } while (0)
