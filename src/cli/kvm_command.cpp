// SPDX-License-Identifier: Apache-2.0
#include "cli/kvm_command.h"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/owned_fd.h"
#include "cli/help.h"

namespace vireo::cli {
namespace {

constexpr char kName[] = "libvireo-kvm.so";

bool readable(const std::string& path) { return ::access(path.c_str(), R_OK) == 0; }

// The library beside this program: in the build folder, or installed.
Result<std::string> find_library() {
  if (const char* named = std::getenv("VIREO_KVM_LIBRARY")) {
    if (readable(named)) return std::string(named);
    return fail(ErrorKind::kNotFound, std::string("VIREO_KVM_LIBRARY=") + named + ": cannot be read");
  }
  char self[4096];
  ssize_t size = ::readlink("/proc/self/exe", self, sizeof self - 1);
  if (size <= 0) return fail_errno("/proc/self/exe");
  std::string folder(self, static_cast<size_t>(size));
  folder.resize(folder.rfind('/'));
  for (const char* place : {"/../lib/", "/../lib/vireo/", "/"}) {
    std::string path = folder + place + kName;
    if (char* whole = ::realpath(path.c_str(), nullptr)) {
      path = whole;
      std::free(whole);
      return path;
    }
  }
  return fail(ErrorKind::kNotFound, std::string(kName) + " is not beside this program (looked in ../lib of " + folder + "); VIREO_KVM_LIBRARY names it elsewhere");
}

std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* path = std::getenv("PATH");
  std::string folders = path != nullptr ? path : "/usr/bin:/bin";
  for (size_t at = 0; at <= folders.size();) {
    size_t end = std::min(folders.find(':', at), folders.size());
    std::string candidate = folders.substr(at, end - at) + "/" + name;
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
    at = end + 1;
  }
  return name;
}

// A program that the dynamic linker does not start never sees LD_PRELOAD; nor does one that runs with rights of its own.
Result<> check_dynamic(const std::string& path) {
  OwnedFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return {};  // exec says what is wrong
  Elf64_Ehdr header;
  if (::pread(file.get(), &header, sizeof header, 0) != sizeof header || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return {};  // a script
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
    return fail(ErrorKind::kUnsupported, path + ": is no 64-bit x86 program");
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  const ssize_t size = static_cast<ssize_t>(segments.size() * sizeof(Elf64_Phdr));
  if (header.e_phentsize != sizeof(Elf64_Phdr) || ::pread(file.get(), segments.data(), static_cast<size_t>(size), static_cast<off_t>(header.e_phoff)) != size) return {};
  for (const Elf64_Phdr& segment : segments)
    if (segment.p_type == PT_INTERP) return {};
  return fail(ErrorKind::kUnsupported, path + ": is statically linked, so it cannot be given softkvm (docs/preload.md says what it needs)");
}

}  // namespace

Result<int> run_with_softkvm(int argc, char** argv) {
  int first = 0;
  if (argc > 0 && (std::strcmp(argv[0], "--help") == 0 || std::strcmp(argv[0], "-h") == 0)) {
    std::printf("vireo kvm -- PROGRAM [ARGUMENT]...: runs a dynamically linked program with softkvm as its /dev/kvm\n");
    return 0;
  }
  if (argc > 0 && std::strcmp(argv[0], "--") == 0) first = 1;
  else if (argc > 0 && argv[0][0] == '-') return fail(ErrorKind::kInvalid, std::string("kvm: ") + argv[0] + " is no option; write: vireo kvm -- PROGRAM [ARGUMENT]...");
  if (first >= argc) return fail(ErrorKind::kInvalid, "kvm: a program is missing; write: vireo kvm -- PROGRAM [ARGUMENT]...");
  std::string library = TRY(find_library());
  TRY_VOID(check_dynamic(find_program(argv[first])));
  if (const char* others = std::getenv("LD_PRELOAD"); others != nullptr && *others != 0) library += std::string(":") + others;
  ::setenv("LD_PRELOAD", library.c_str(), 1);
  std::vector<char*> arguments(argv + first, argv + argc);
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  return fail_errno(arguments[0]);
}

}  // namespace vireo::cli
