/* What TVM's code asks of its runtime, so that a product's library stands alone: threads, memory, a place for errors.
 *
 * TVM's generated code calls the first two through variables, which are set here. Threads are those of the OpenMP
 * runtime that the process has loaded, PyTorch's: a pool of others beside it, both letting a worker without work spin
 * for a while, would keep the workers of one from the cores of the other. Memory is taken for a call and given back
 * behind it: a pool of it would lie beside the largest tensors of a step. It is C that is C++ too: the compiler that
 * links, whichever it is, compiles it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define ALIGNMENT 64 /* bytes */
#define MESSAGE 512

typedef struct {
  void *sync;
  int32_t tasks;
} Group;
typedef int (*Task)(int, Group *, void *);
typedef int (*Launch)(Task, void *, int);
typedef void *(*Take)(int, int, uint64_t, int, int);
typedef int (*Give)(int, int, void *);
typedef struct {
  Task task;
  void *data;
  int failed;
} Job;

#ifdef __cplusplus
extern "C" {
#endif

/* Weak: a product that needs no memory, or no threads, has no such variable. */
extern Launch __TVMBackendParallelLaunch __attribute__((weak));
extern Take __TVMBackendAllocWorkspace __attribute__((weak));
extern Give __TVMBackendFreeWorkspace __attribute__((weak));

static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*own_number)(void);
static int (*team_size)(void);
static unsigned threads = 1;
static char message[MESSAGE];

static void work(void *given) {
  Job *job = (Job *)given;
  Group group = {NULL, team_size()};
  int failed = job->task(own_number(), &group, job->data);
  if (failed) __atomic_store_n(&job->failed, failed, __ATOMIC_RELAXED);
}

static int launch(Task task, void *data, int tasks) {
  Job job = {task, data, 0};
  if (parallel) {
    parallel(work, &job, tasks > 0 ? (unsigned)tasks : threads, 0);
    return job.failed;
  }
  Group alone = {NULL, 1};
  return task(0, &alone, data);
}

static void *take(int device_type, int device, uint64_t bytes, int code, int bits) {
  void *memory = NULL;
  (void)device_type, (void)device, (void)code, (void)bits;
  if (posix_memalign(&memory, ALIGNMENT, bytes))
    snprintf(message, MESSAGE, "there is no memory for %llu bytes", (unsigned long long)bytes);
  return memory;
}

static int give(int device_type, int device, void *memory) {
  (void)device_type, (void)device;
  free(memory);
  return 0;
}

/* TVM's code has found wrong arguments. Not for others: TVM's own library has a function of the name. */
__attribute__((visibility("hidden"))) void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts,
                                                                             int32_t count) {
  int used = snprintf(message, MESSAGE, "%s: ", kind);
  for (int32_t i = 0; i < count && used < MESSAGE; i++)
    if (parts[i]) used += snprintf(message + used, MESSAGE - used, "%s", parts[i]);
}

/* What went wrong last. */
const char *subp_error(void) { return message; }

/* To be called before the product: so many threads share it, one alone where no OpenMP runtime is loaded. */
void subp_set_up(int count) {
  void *runtime = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (runtime) {
    *(void **)&own_number = dlsym(runtime, "omp_get_thread_num");
    *(void **)&team_size = dlsym(runtime, "omp_get_num_threads");
    if (own_number && team_size) *(void **)&parallel = dlsym(runtime, "GOMP_parallel");
  }
  threads = (unsigned)count;
  if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = launch;
  if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = take;
  if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = give;
}

#ifdef __cplusplus
}
#endif
