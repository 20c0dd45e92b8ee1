// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/code_names.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>

#include "base/log.h"
#include "softkvm/translate/guest_symbols.h"
#include "softkvm/translate/jitdump.h"

namespace vireo::softkvm {
namespace {

struct Names {
  std::mutex mutex;
  FILE* map = nullptr;
  std::unique_ptr<Jitdump> jitdump;
  std::optional<GuestSymbols> symbols;
};
Names& names() {
  static Names* const all = new Names;  // blocks may be made until the process is gone
  return *all;
}

Result<FILE*> open_map() {
  const std::string path = "/tmp/perf-" + std::to_string(getpid()) + ".map";
  unlink(path.c_str());  // a file of that name is left from an earlier process, or is a trap
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  FILE* file = fd < 0 ? nullptr : fdopen(fd, "w");
  if (!file) return fail_errno(path);
  return file;
}

}  // namespace

Result<> name_code(const CodeNames& wanted) {
  Names& all = names();
  std::lock_guard lock(all.mutex);
  auto within = [](auto result, const char* what) -> decltype(result) {
    if (!result) return std::unexpected(std::move(result).error().within(what));
    return result;
  };
  if (!wanted.symbols.empty()) all.symbols = TRY(within(GuestSymbols::read(wanted.symbols), "--guest-symbols"));
  if (wanted.perf_map && !all.map) all.map = TRY(within(open_map(), "--perf-map"));
  if (!wanted.jitdump_folder.empty()) all.jitdump = TRY(within(Jitdump::create(wanted.jitdump_folder), "--jitdump"));
  return {};
}

bool code_is_named() {
  static std::once_flag once;
  std::call_once(once, [] {
    auto text = [](const char* name) { return std::string(getenv(name) ? getenv(name) : ""); };
    const CodeNames wanted{getenv("VIREO_PERF_MAP") != nullptr, text("VIREO_JITDUMP"), text("VIREO_GUEST_SYMBOLS")};
    if (auto result = name_code(wanted); !result) log(LogLevel::kWarning, "names for perf: %s", result.error().message.c_str());
  });
  Names& all = names();
  std::lock_guard lock(all.mutex);
  return all.map || all.jitdump;
}

void name_block(const void* code, size_t size, uint64_t linear, bool user) {
  Names& all = names();
  std::lock_guard lock(all.mutex);
  char text[48];
  snprintf(text, sizeof text, "guest_%s_%llx", user ? "user" : "kernel", static_cast<unsigned long long>(linear));
  std::string name = text;
  if (all.symbols && !user)
    if (std::string symbol = all.symbols->name(linear); !symbol.empty()) name += "_" + symbol;
  if (all.map) {
    fprintf(all.map, "%llx %zx %s\n", static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(code)), size, name.c_str());
    fflush(all.map);  // the process may be killed any time
  }
  if (all.jitdump) all.jitdump->add(code, size, name);
}

}  // namespace vireo::softkvm
