// Calls libedge_programs.so as a Java VM does that has no memory left: it gives no characters of a string, and no classes. An
// argument names what fails first: "characters" or "class".
#include <dlfcn.h>
#include <jni.h>
#include <stdio.h>
#include <string.h>

typedef void RestoreOrBuild(JNIEnv*, jclass, jstring, jstring);

static jboolean pending;
static jboolean fails;

static const char* GetStringUTFChars(JNIEnv* env, jstring text, jboolean* is_copy) {
  pending = fails;
  return fails ? NULL : "prefix_";
}

static void ReleaseStringUTFChars(JNIEnv* env, jstring text, const char* characters) {}

static jboolean ExceptionCheck(JNIEnv* env) { return pending; }

static jclass FindClass(JNIEnv* env, const char* name) {
  puts(pending ? "called while an exception is pending" : "no class");
  pending = JNI_TRUE;
  return NULL;
}

static jint ThrowNew(JNIEnv* env, jclass type, const char* message) {
  puts(type == NULL ? "threw nothing" : message);
  return 0;
}

int main(int count, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (library == NULL) return puts(dlerror());
  RestoreOrBuild* call = (RestoreOrBuild*)dlsym(library, "Java_edgetransact_edge_android_Programs_restoreOrBuild");
  struct JNINativeInterface_ functions = {0};
  functions.GetStringUTFChars = GetStringUTFChars;
  functions.ReleaseStringUTFChars = ReleaseStringUTFChars;
  functions.ExceptionCheck = ExceptionCheck;
  functions.FindClass = FindClass;
  functions.ThrowNew = ThrowNew;
  JNIEnv env = &functions;
  fails = strcmp(arguments[2], "characters") == 0;
  call(&env, NULL, NULL, NULL);
  puts(pending ? "Java hears of it" : "Java hears nothing");
  return 0;
}
