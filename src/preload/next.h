// SPDX-License-Identifier: Apache-2.0
// The function that would have been called without this library: libc's, or that of a library preloaded behind this one.
#pragma once

#include <dlfcn.h>

#include <cstdarg>
#include <type_traits>

namespace vireo::preload {

// Where a name is a type of its own, each has one static.
template <class Type, class Name>
Type* next_function() {
  static Type* const found = reinterpret_cast<Type*>(::dlsym(RTLD_NEXT, Name::text()));
  return found;
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
