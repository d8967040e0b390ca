// What Android's C library has and GNU's has not.
#pragma once
#include <pthread.h>
#include <sys/types.h>
extern "C" pid_t pthread_gettid_np(pthread_t thread);
