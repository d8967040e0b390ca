// The native half of edgetransact.edge.android.Programs, and of Cores.
//
// TVM returns compiled programs as a string. tvm4j makes a Java string of every string, which binary data doesn't
// survive, so the programs stay in C++ on their way to the file and back.
#include <jni.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "programs.h"

namespace {

namespace ffi = tvm::ffi;

std::string ToString(JNIEnv* env, jstring text) {
  const char* characters = env->GetStringUTFChars(text, nullptr);
  if (characters == nullptr) throw std::bad_alloc();
  std::string copy = characters;
  env->ReleaseStringUTFChars(text, characters);
  return copy;
}

constexpr int kShareAllCores = -3;  // TVM's ThreadGroup::kSpecifyThreadShareAllCore

// Where a function of JNI failed, its own exception is pending already.
void Throw(JNIEnv* env, const std::exception& error) {
  if (env->ExceptionCheck()) return;
  jclass exception = env->FindClass("java/lang/RuntimeException");
  if (exception != nullptr) env->ThrowNew(exception, error.what());
}

ffi::Function Find(const ffi::Module& library, const char* name) {
  // By its global name, because a runtime that is linked into another library exports only the C interface for sure.
  auto found = ffi::Function::GetGlobalRequired("ffi.ModuleGetFunction")(library, ffi::String(name), true)
                   .cast<ffi::Optional<ffi::Function>>();
  if (!found.has_value()) throw std::runtime_error(std::string("the library has no ") + name);
  return found.value();
}

}  // namespace

extern "C" JNIEXPORT void JNICALL
Java_edgetransact_edge_android_Programs_restoreOrBuild(JNIEnv* env, jclass, jstring prefix, jstring path) {
  try {
    // TVM keeps one module for a prefix, so the engine will run the programs of this one.
    auto library = ffi::Function::GetGlobalRequired("ffi.SystemLib")(ffi::String(ToString(env, prefix)))
                       .cast<ffi::Module>();
    auto get = Find(library, "opencl.GetPreCompiledPrograms");
    auto set = Find(library, "opencl.SetPreCompiledPrograms");
    edge::RestoreOrBuild(
        ToString(env, path), [&]() -> std::string { return get().cast<ffi::String>(); },
        [&](const std::string& programs) { set(ffi::String(programs)); });
  } catch (const std::exception& error) {
    Throw(env, error);
  }
}

extern "C" JNIEXPORT void JNICALL
Java_edgetransact_edge_android_Cores_use(JNIEnv* env, jclass, jintArray cores) {
  try {
    std::vector<jint> numbers(env->GetArrayLength(cores));
    env->GetIntArrayRegion(cores, 0, static_cast<jsize>(numbers.size()), numbers.data());
    ffi::Array<ffi::String> names;
    for (jint number : numbers) names.push_back(std::to_string(number));
    ffi::Function::GetGlobalRequired("runtime.config_threadpool")(kShareAllCores, static_cast<int>(names.size()), names);
  } catch (const std::exception& error) {
    Throw(env, error);
  }
}
