/* Runs what a product's threads share on the threads of the OpenMP runtime that the process has loaded: PyTorch's.
 *
 * Both TVM's pool and OpenMP's let a worker without work spin for a while; with one core a thread, each pool's workers
 * would keep the other's from theirs. TVM's generated code calls threads through a variable, which is set here. It is
 * C that is C++ too: the compiler that links, whichever it is, compiles it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  void *sync;
  int32_t tasks;
} Group;
typedef int (*Task)(int, Group *, void *);
typedef int (*Launch)(Task, void *, int);
typedef struct {
  Task task;
  void *data;
  int failed;
} Job;

#ifdef __cplusplus
extern "C" {
#endif

extern Launch __TVMBackendParallelLaunch __attribute__((weak));

static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*own_number)(void);
static int (*team_size)(void);
static unsigned threads = 1;

static void work(void *given) {
  Job *job = (Job *)given;
  Group group = {NULL, team_size()};
  int failed = job->task(own_number(), &group, job->data);
  if (failed) __atomic_store_n(&job->failed, failed, __ATOMIC_RELAXED);
}

static int launch(Task task, void *data, int tasks) {
  Job job = {task, data, 0};
  parallel(work, &job, tasks > 0 ? (unsigned)tasks : threads, 0);
  return job.failed;
}

/* Whether from here on so many threads of OpenMP's are taken: not where no OpenMP runtime of GNU's is loaded. */
int subp_take_team(int count) {
  void *runtime = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (!runtime || !&__TVMBackendParallelLaunch) return 0;
  *(void **)&parallel = dlsym(runtime, "GOMP_parallel");
  *(void **)&own_number = dlsym(runtime, "omp_get_thread_num");
  *(void **)&team_size = dlsym(runtime, "omp_get_num_threads");
  if (!parallel || !own_number || !team_size) return 0;
  threads = (unsigned)count;
  __TVMBackendParallelLaunch = launch;
  return 1;
}

#ifdef __cplusplus
}
#endif
