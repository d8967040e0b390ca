// Measures the limits of a machine: reading memory, multiply-adds in registers, and handing a value from CPU to CPU.
// Loaded by benchmarks/limits.py.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

typedef int64_t words __attribute__((vector_size(64)));
typedef float floats __attribute__((vector_size(64)));

typedef struct {
  int index;
  const char *data;
  size_t bytes;
  int passes;
  pthread_barrier_t *barrier;
  double seconds;
  int64_t sum;
} Job;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *read_part(void *argument) {
  Job *job = argument;
  words sums[4] = {{0}};
  pthread_barrier_wait(job->barrier);
  double start = now();
  for (int pass = 0; pass < job->passes; pass++) {
    for (size_t i = 0; i + 256 <= job->bytes; i += 256) {
      const words *from = (const words *)(job->data + i);
      for (int k = 0; k < 4; k++) sums[k] += from[k];
    }
    pthread_barrier_wait(job->barrier);  // like kernels, so that no thread runs ahead in the cache
  }
  job->seconds = now() - start;
  for (int k = 0; k < 4; k++)
    for (int i = 0; i < 8; i++) job->sum += sums[k][i];
  return NULL;
}

#define SUMS 12

static void *multiply(void *argument) {
  Job *job = argument;
  pthread_barrier_wait(job->barrier);
  double start = now();
#if defined(__AVX512VNNI__)
  __m512i sums[SUMS], a = _mm512_set1_epi8(1), b = a;
  for (int k = 0; k < SUMS; k++) sums[k] = _mm512_set1_epi32(k);  // not all alike, or one would do for all
  for (int pass = 0; pass < job->passes; pass++) {
    __asm__ volatile("" : "+v"(a), "+v"(b));
    for (int k = 0; k < SUMS; k++) sums[k] = _mm512_dpbusd_epi32(sums[k], a, b);
  }
  for (int k = 0; k < SUMS; k++) job->sum += _mm512_reduce_add_epi32(sums[k]);
#elif defined(__AVX2__)
  // Unrolled, or GCC keeps the sums in memory.
  __m256i sums[SUMS], a = _mm256_set1_epi8(1), b = a;
#pragma GCC unroll 16
  for (int k = 0; k < SUMS; k++) sums[k] = _mm256_set1_epi32(k);
  for (int pass = 0; pass < job->passes; pass++) {
    __asm__ volatile("" : "+x"(a), "+x"(b));
#pragma GCC unroll 16
    for (int k = 0; k < SUMS; k++) {
      // In assembly, or GCC would compute one product for all sums, or copy them.
#if defined(__AVXVNNI__)
      __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums[k]) : "x"(a), "x"(b));
#else
      __m256i product;
      __asm__ volatile("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sums[k]), "=&x"(product) : "x"(a), "x"(b));
#endif
    }
  }
#pragma GCC unroll 16
  for (int k = 0; k < SUMS; k++) job->sum += _mm256_extract_epi32(sums[k], 0);
#elif defined(__ARM_FEATURE_DOTPROD)
  int32x4_t sums[SUMS];
  int8x16_t a = vdupq_n_s8(1), b = a;
  for (int k = 0; k < SUMS; k++) sums[k] = vdupq_n_s32(0);
  for (int pass = 0; pass < job->passes; pass++) {
    __asm__ volatile("" : "+w"(a), "+w"(b));
    for (int k = 0; k < SUMS; k++) sums[k] = vdotq_s32(sums[k], a, b);
  }
  for (int k = 0; k < SUMS; k++) job->sum += vaddvq_s32(sums[k]);
#else
  floats sums[SUMS] = {{0}}, a, b;
  for (int i = 0; i < 16; i++) a[i] = b[i] = 1.0f;
  for (int pass = 0; pass < job->passes; pass++) {
    __asm__ volatile("" : "+m"(a), "+m"(b));
    for (int k = 0; k < SUMS; k++) sums[k] += a * b;
  }
  for (int k = 0; k < SUMS; k++) job->sum += (int64_t)sums[k][0];
#endif
  job->seconds = now() - start;
  return NULL;
}

// Gives each thread its own CPU from the start: a measurement is over before the system would have moved the threads.
// `pthread_setaffinity_np` of a thread that has already ended would bind the calling one, and all that it starts.
static void pin(pthread_attr_t *attributes, int index) {
  cpu_set_t allowed, own;
  sched_getaffinity(0, sizeof allowed, &allowed);
  index %= CPU_COUNT(&allowed);
  CPU_ZERO(&own);
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &allowed) && index-- == 0) CPU_SET(cpu, &own);
  pthread_attr_setaffinity_np(attributes, sizeof own, &own);
}

static double run(void *(*work)(void *), const char *data, size_t bytes, int passes, int threads) {
  pthread_t thread[64];
  Job job[64];
  pthread_barrier_t barrier;
  size_t part = bytes / (size_t)threads / 64 * 64;
  double longest = 0;
  pthread_barrier_init(&barrier, NULL, (unsigned)threads);
  for (int i = 0; i < threads; i++) {
    job[i] = (Job){i, data + (size_t)i * part, part, passes, &barrier, 0, 0};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pin(&attributes, i);
    pthread_create(&thread[i], &attributes, work, &job[i]);
    pthread_attr_destroy(&attributes);
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(thread[i], NULL);
    if (job[i].seconds > longest) longest = job[i].seconds;
  }
  pthread_barrier_destroy(&barrier);
  return longest;
}

// Seconds to read the 64-byte aligned buffer `passes` times, with up to 64 threads that read a part each.
double read_seconds(const char *data, size_t bytes, int passes, int threads) {
  return run(read_part, data, bytes, passes, threads);
}

// FLOPs of each thread in a pass of `multiply_seconds`. The product of a 16-bit activation and a weight takes two products
// of bytes, four in a lane; or one of 16-bit words, two in a lane; or one of fp32.
#if defined(__AVX512VNNI__)
const int flops_per_pass = SUMS * 16 * 4 / 2 * 2;
#elif defined(__AVXVNNI__)
const int flops_per_pass = SUMS * 8 * 4 / 2 * 2;
#elif defined(__AVX2__)
const int flops_per_pass = SUMS * 8 * 2 * 2;
#elif defined(__ARM_FEATURE_DOTPROD)
const int flops_per_pass = SUMS * 4 * 4 / 2 * 2;
#else
const int flops_per_pass = SUMS * 16 * 2;
#endif

double multiply_seconds(int passes, int threads) { return run(multiply, NULL, 0, passes, threads); }

static atomic_int turn;

static void *take_turns(void *argument) {
  Job *job = argument;
  pthread_barrier_wait(job->barrier);
  double start = now();
  for (int pass = 0; pass < job->passes; pass++) {
    while (atomic_load_explicit(&turn, memory_order_acquire) != job->index) continue;
    atomic_store_explicit(&turn, !job->index, memory_order_release);
  }
  job->seconds = now() - start;
  return NULL;
}

// Seconds for two threads to hand a number back and forth `passes` times.
double handover_seconds(int passes) {
  atomic_store(&turn, 0);
  return run(take_turns, NULL, 0, passes, 2);
}
