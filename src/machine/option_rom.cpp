// SPDX-License-Identifier: Apache-2.0
#include "machine/option_rom.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/owned_fd.h"

namespace vireo {

Result<std::vector<std::byte>> read_option_rom(const std::string& path, const std::string& what, uint64_t most) {
  // A FIFO is not to be waited for.
  OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return fail_errno(what);
  struct stat st;
  if (fstat(fd.get(), &st)) return fail_errno(what);
  if (!S_ISREG(st.st_mode)) return fail(ErrorKind::kInvalid, what + ": not a regular file");
  if (st.st_size < 512 || static_cast<uint64_t>(st.st_size) > most)
    return fail(ErrorKind::kInvalid, what + ": " + std::to_string(st.st_size) + " bytes; an option ROM has 512, and there is room for " + std::to_string(most));
  std::vector<std::byte> bytes(static_cast<size_t>(st.st_size));
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t got = pread(fd.get(), &bytes[at], bytes.size() - at, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? fail_errno(what) : fail(ErrorKind::kIo, what + ": ends early");
    at += static_cast<size_t>(got);
  }
  if (bytes[0] != std::byte{0x55} || bytes[1] != std::byte{0xaa}) return fail(ErrorKind::kInvalid, what + ": does not begin as an option ROM does (55 aa)");
  return bytes;
}

}  // namespace vireo
