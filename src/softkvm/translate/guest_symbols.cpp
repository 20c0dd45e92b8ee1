// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/guest_symbols.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "base/owned_fd.h"

namespace vireo::softkvm {
namespace {

constexpr size_t kMostBytes = 256u << 20;  // a kernel with everything in it has 10 MiB

}  // namespace

Result<GuestSymbols> GuestSymbols::read(const std::string& path) {
  OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return fail_errno(path);
  std::string text;
  for (;;) {
    char buffer[65536];
    const ssize_t got = ::read(fd.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(path);
    if (got == 0) break;
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > kMostBytes) return fail(ErrorKind::kInvalid, path + ": too large for a System.map");
  }
  auto parsed = parse(text);
  if (!parsed) return std::unexpected(std::move(parsed).error().within(path));
  return parsed;
}

Result<GuestSymbols> GuestSymbols::parse(std::string_view text) {
  GuestSymbols out;
  bool only_zeros = true;
  size_t number = 0;
  while (!text.empty()) {
    number++;
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty()) continue;
    uint64_t address = 0;
    const auto [behind, error] = std::from_chars(line.data(), line.data() + line.size(), address, 16);
    const size_t at = static_cast<size_t>(behind - line.data());
    const bool shaped = error == std::errc() && line.size() > at + 3 && line[at] == ' ' && line[at + 2] == ' ';
    const std::string_view name = shaped ? line.substr(at + 3, line.find_first_of(" \t", at + 3) - (at + 3)) : "";
    const bool plain = !name.empty() && std::ranges::all_of(name, [](char c) { return c > ' ' && c < 0x7f; });
    if (!plain) return fail(ErrorKind::kInvalid, "line " + std::to_string(number) + ": not ADDRESS TYPE NAME, as System.map and /proc/kallsyms have it");
    only_zeros &= address == 0;
    const char type = line[at + 1];
    if (type == 't' || type == 'T' || type == 'w' || type == 'W') out.symbols_.push_back({address, std::string(name)});
  }
  if (out.symbols_.empty()) return fail(ErrorKind::kInvalid, "no functions in it");
  if (only_zeros) return fail(ErrorKind::kInvalid, "all addresses are zero: only root in the guest sees those of /proc/kallsyms");
  std::ranges::stable_sort(out.symbols_, {}, &Symbol::address);
  return out;
}

std::string GuestSymbols::name(uint64_t address) const {
  auto after = std::ranges::upper_bound(symbols_, address, {}, &Symbol::address);
  if (after == symbols_.begin()) return "";
  // Of several names for one address the file's first one.
  auto found = std::ranges::lower_bound(symbols_, std::prev(after)->address, {}, &Symbol::address);
  const uint64_t offset = address - found->address;
  if (offset >= kFarthest) return "";
  char text[24];
  snprintf(text, sizeof text, "+0x%llx", static_cast<unsigned long long>(offset));
  return offset ? found->name + text : found->name;
}

}  // namespace vireo::softkvm
