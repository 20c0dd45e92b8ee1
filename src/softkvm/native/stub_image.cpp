// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/stub_image.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>
#include <string>

#include "softkvm/native/stub_layout.h"

extern "C" const unsigned char softkvm_native_code[], softkvm_native_list_ip[], softkvm_native_on_ip[], softkvm_native_stop_ip[], softkvm_native_handler[], softkvm_native_restore[],
    softkvm_native_trap[], softkvm_native_code_end[];

namespace vireo::softkvm {
namespace {

constexpr uint64_t kCodeAt = 256;  // in the page, behind the headers

Result<OwnedFd> make_image() {
  struct {
    Elf64_Ehdr header{};
    Elf64_Phdr program[2]{};
  } front;
  unsigned char page[4096] = {};
  Elf64_Ehdr& h = front.header;
  memcpy(h.e_ident, ELFMAG, SELFMAG);
  h.e_ident[EI_CLASS] = ELFCLASS64;
  h.e_ident[EI_DATA] = ELFDATA2LSB;
  h.e_ident[EI_VERSION] = EV_CURRENT;
  h.e_type = ET_EXEC;
  h.e_machine = EM_X86_64;
  h.e_version = EV_CURRENT;
  h.e_entry = STUB_CODE + kCodeAt;
  h.e_phoff = sizeof h;
  h.e_ehsize = sizeof h;
  h.e_phentsize = sizeof(Elf64_Phdr);
  h.e_phnum = 2;
  front.program[0] = {PT_LOAD, PF_R | PF_X, 0, STUB_CODE, STUB_CODE, sizeof page, sizeof page, 4096};
  front.program[1] = {PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 0, 0, 16};
  memcpy(page, &front, sizeof front);
  memcpy(page + kCodeAt, softkvm_native_code, static_cast<size_t>(softkvm_native_code_end - softkvm_native_code));
  OwnedFd written(memfd_create("vireo-guest", MFD_CLOEXEC));
  if (!written.valid()) return fail_errno("memfd of the stub program");
  if (write(written.get(), page, sizeof page) != static_cast<ssize_t>(sizeof page)) return fail_errno("writing the stub program");
  // A file that is open for writing is not executed.
  OwnedFd image(open(("/proc/self/fd/" + std::to_string(written.get())).c_str(), O_RDONLY | O_CLOEXEC));
  if (!image.valid()) return fail_errno("opening the stub program");
  return image;
}

uint32_t address(const unsigned char* at) { return static_cast<uint32_t>(STUB_CODE + kCodeAt + static_cast<uint64_t>(at - softkvm_native_code)); }

}  // namespace

Result<int> stub_image() {
  static const Result<OwnedFd> image = make_image();
  if (!image) return std::unexpected(image.error());
  return image->get();
}

const StubPlaces& stub_places() {
  static const StubPlaces places{.list_call = address(softkvm_native_list_ip), .on_call = address(softkvm_native_on_ip), .stop_call = address(softkvm_native_stop_ip),
                                 .handler = address(softkvm_native_handler), .restore = address(softkvm_native_restore), .trap = address(softkvm_native_trap)};
  return places;
}

}  // namespace vireo::softkvm
