// SPDX-License-Identifier: Apache-2.0
#include "machine/flash.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/busy_file.h"
#include "base/log.h"
#include "machine/machine.h"

namespace vireo {
namespace {

Result<std::span<std::byte>> map_copy(int fd, uint64_t size, const std::string& what) {
  void* map = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return fail_errno(what);
  std::span<std::byte> bytes(static_cast<std::byte*>(map), size);
  for (uint64_t at = 0; at < size;) {
    ssize_t got = pread(fd, &bytes[at], size - at, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      auto error = got < 0 ? fail_errno(what) : fail(ErrorKind::kIo, what + ": ends early");
      munmap(map, size);
      return error;
    }
    at += static_cast<uint64_t>(got);
  }
  return bytes;
}

Result<uint64_t> image_size(int fd, uint64_t most, const std::string& what) {
  struct stat st;
  if (fstat(fd, &st)) return fail_errno(what);
  if (!S_ISREG(st.st_mode)) return fail(ErrorKind::kInvalid, what + ": not a regular file");
  auto size = static_cast<uint64_t>(st.st_size);
  if (size == 0 || size % Pflash::kBlockSize || size > most)
    return fail(ErrorKind::kInvalid, what + ": " + std::to_string(size) + " bytes; a flash image has a multiple of 4096, and there is room for " +
                                         std::to_string(most >> 10) + " KiB");
  return size;
}

}  // namespace

Result<std::unique_ptr<Flash>> Flash::create(Machine& machine, const std::string& code, const std::string& variables) {
  std::unique_ptr<Flash> flash(new Flash(machine));
  TRY_VOID(flash->load_code(code));
  if (!variables.empty()) TRY_VOID(flash->load_variables(variables));
  return flash;
}

Flash::~Flash() {
  if (!code_.empty()) munmap(code_.data(), code_.size());
  if (!variables_.empty()) munmap(variables_.data(), variables_.size());
  if (file_.valid()) fdatasync(file_.get());
}

Result<> Flash::load_code(const std::string& path) {
  const std::string what = "--firmware " + path;
  // A FIFO is not to be waited for.
  OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return fail_errno(what);
  const uint64_t size = TRY(image_size(fd.get(), kMost, what));
  code_ = TRY(map_copy(fd.get(), size, what));
  return machine_.set_memory(machine_.new_memory_slot(), kEnd - size, size, code_.data(), KVM_MEM_READONLY);
}

Result<> Flash::load_variables(const std::string& path) {
  name_ = path;
  const std::string what = "--firmware vars=" + path;
  file_.reset(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!file_.valid()) return fail_errno(what);
  // Two machines with one set of variables would destroy it.
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  TRY_VOID(while_busy([&]() -> Result<> {
    if (fcntl(file_.get(), F_OFD_SETLK, &lock)) return fail(ErrorKind::kBusy, what + ": in use by another program");
    return {};
  }));
  const uint64_t size = TRY(image_size(file_.get(), kMost - code_.size(), what));
  variables_ = TRY(map_copy(file_.get(), size, what));
  variables_at_ = kEnd - code_.size() - size;
  variables_slot_ = machine_.new_memory_slot();
  Pflash::Pins pins;
  if (machine_.has_system_management()) pins.may_command = [this] { return machine_.in_system_management(); };
  pins.show_array = [this](bool shown) {
    if (auto mapped = map_variables(shown); !mapped) log(LogLevel::kError, "%s", mapped.error().message.c_str());
  };
  pins.changed = [this](uint64_t offset, uint64_t changed) { keep(offset, changed); };
  chip_ = std::make_unique<Pflash>(variables_, std::move(pins));
  TRY_VOID(machine_.mmio().add(variables_at_, size, *chip_));
  if (machine_.has_system_management())
    TRY_VOID(machine_.vm().set_memory(variables_slot_, variables_at_, size, variables_.data(), KVM_MEM_READONLY));
  return map_variables(true);
}

// Without the slot every access is the chip's. Where only system management mode commands it, everybody else reads the array whatever it shows.
Result<> Flash::map_variables(bool shown) {
  auto map = [this](unsigned slot, bool mapped) { return machine_.vm().set_memory(slot, variables_at_, mapped ? variables_.size() : 0, variables_.data(), KVM_MEM_READONLY); };
  return map(machine_.has_system_management() ? Machine::second_space(variables_slot_) : variables_slot_, shown);
}

void Flash::keep(uint64_t offset, uint64_t size) {
  while (size) {
    ssize_t done = pwrite(file_.get(), &variables_[offset], size, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      if (!std::exchange(told_, true)) log(LogLevel::kError, "--firmware vars=%s: not kept: %s", name_.c_str(), strerror(done < 0 ? errno : EIO));
      return;
    }
    offset += static_cast<uint64_t>(done);
    size -= static_cast<uint64_t>(done);
  }
}

void Flash::reset(ResetKind kind) {
  if (!chip_) return;
  auto lock = machine_.mmio().lock(*chip_);
  chip_->reset(kind);
}

}  // namespace vireo
