// SPDX-License-Identifier: Apache-2.0
#include "base/delay_load.h"

#include <dlfcn.h>

#include <atomic>
#include <cstring>
#include <mutex>
#include <vector>

#include "base/log.h"

namespace vireo {
namespace {

std::unexpected<Error> failed() {
  // dlerror names the library and the reason.
  const char* why = dlerror();
  return fail(ErrorKind::kUnsupported, why ? why : "a shared library could not be loaded", ENOTSUP);
}

}  // namespace

Result<> load_library(DelayedLibrary& library) {
  std::atomic_ref loaded(library.loaded);
  if (loaded.load(std::memory_order_acquire)) return {};
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  if (loaded.load(std::memory_order_relaxed)) return {};
  // Bound lazily, as it would be by the program's start. It is never unloaded: its functions are called until the end.
  void* handle = dlopen(library.soname, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
  if (!handle) return failed();
  std::vector<void*> found;
  for (const char* name = library.functions; *name;) {
    const char* version = name + strlen(name) + 1;
    void* function = *version ? dlvsym(handle, name, version) : dlsym(handle, name);
    if (!function) return failed();
    found.push_back(function);
    name = version + strlen(version) + 1;
  }
  for (size_t i = 0; i < found.size(); ++i) std::atomic_ref(library.slots[i]).store(found[i], std::memory_order_release);
  loaded.store(1, std::memory_order_release);
  return {};
}

}  // namespace vireo

extern "C" void vireo_delay_load_now(vireo::DelayedLibrary* library) {
  if (auto result = load_library(*library); !result) vireo::panic("%s", result.error().message.c_str());
}
