# A phone's target with clang and lld, where there is no NDK: GNU's headers stand in for Android's, and no symbol is resolved.
# What comes out cannot run; it shows that everything compiles for Android, and what would have to be found there.
set(CMAKE_SYSTEM_NAME Android)
set(CMAKE_SYSTEM_VERSION 1)  # CMake looks for no NDK
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_C_COMPILER clang-19)
set(CMAKE_CXX_COMPILER clang++-19)
set(CMAKE_C_COMPILER_TARGET aarch64-linux-android28)
set(CMAKE_CXX_COMPILER_TARGET aarch64-linux-android28)
set(gnu /usr/aarch64-linux-gnu/include)
set(bionic ${CMAKE_CURRENT_LIST_DIR}/include)
set(CMAKE_C_FLAGS_INIT "-isystem ${gnu}")
set(CMAKE_CXX_FLAGS_INIT "-nostdinc++ -isystem ${bionic} -include bionic.h \
-isystem ${gnu}/c++/14 -isystem ${gnu}/c++/14/aarch64-linux-gnu -isystem ${gnu}")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-fuse-ld=lld -nostdlib -L/usr/aarch64-linux-gnu/lib -Wl,--unresolved-symbols=ignore-all")
