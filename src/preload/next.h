// SPDX-License-Identifier: Apache-2.0
// The function that would have been called without this library: libc's, or that of a library preloaded behind this one. All are looked up
// when this library is initialized, as dlsym() is not async-signal-safe and takes the program's dlerror() away. What calls earlier (initializers of
// other libraries), or what is not loaded yet then, is looked up at the call.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdarg>
#include <type_traits>

namespace vireo::preload {

// Where a name is a type of its own, each has one.
template <class Name>
struct Next {
  static void* look_up() {
    void* address = ::dlsym(RTLD_NEXT, Name::text());
    if (address == nullptr) ::dlerror();  // ours, not the program's
    return address;
  }
  // Null before its initializer has run.
  static inline std::atomic<void*> known{look_up()};
};

template <class Type, class Name>
Type* next_function() {
  void* address = Next<Name>::known.load(std::memory_order_relaxed);
  if (address == nullptr) [[unlikely]] {
    address = Next<Name>::look_up();
    if (address != nullptr) Next<Name>::known.store(address, std::memory_order_relaxed);
  }
  return reinterpret_cast<Type*>(address);
}

}  // namespace vireo::preload

// VIREO_NEXT_AS("close", int(int))(fd).
#define VIREO_NEXT_AS(name, ...)                       \
  ([] {                                                 \
    struct Name {                                       \
      static const char* text() { return name; }        \
    };                                                  \
    return vireo::preload::next_function<std::type_identity_t<__VA_ARGS__>, Name>(); \
  }())
// For functions whose declaration is in sight.
#define VIREO_NEXT(name) VIREO_NEXT_AS(#name, std::remove_reference_t<decltype(::name)>)

#define VIREO_EXPORT extern "C" [[gnu::visibility("default")]]
