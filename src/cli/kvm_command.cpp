// SPDX-License-Identifier: Apache-2.0
#include "cli/kvm_command.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
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
    // With its folder: a name alone the dynamic linker would look for elsewhere. Links stay, as a way around what LD_PRELOAD does not take.
    std::error_code error;
    if (readable(named)) return std::filesystem::absolute(named, error).string();
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

// ld.so(8): spaces and colons part the names in LD_PRELOAD, and nothing quotes them.
Result<> check_preloadable(const std::string& library) {
  if (library.find_first_of(" :") == std::string::npos) return {};
  return fail(ErrorKind::kUnsupported, library + ": LD_PRELOAD takes no path with a space or a colon; a symbolic link without, named by VIREO_KVM_LIBRARY, will do");
}

std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return name;
  const char* path = std::getenv("PATH");
  std::string folders = path != nullptr ? path : "/usr/bin:/bin";
  for (size_t at = 0; at <= folders.size();) {
    size_t end = std::min(folders.find(':', at), folders.size());
    const std::string folder = at == end ? "." : folders.substr(at, end - at);
    std::string candidate = folder + "/" + name;
    struct stat st;
    if (::stat(candidate.c_str(), &st) == 0 && S_ISREG(st.st_mode) && ::access(candidate.c_str(), X_OK) == 0) return candidate;
    at = end + 1;
  }
  return name;
}

// Rights that the program's file gives to who starts it: set-user-ID and its kin. The dynamic linker then heeds LD_PRELOAD for names without a
// slash alone (ld.so(8), secure-execution mode).
Result<> check_rights(const std::string& path) {
  struct stat st;
  struct statvfs volume;
  if (::stat(path.c_str(), &st) || !S_ISREG(st.st_mode) || ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1) return {};
  if (::statvfs(path.c_str(), &volume) || volume.f_flag & ST_NOSUID) return {};
  const bool user = st.st_mode & S_ISUID && st.st_uid != ::getuid();
  const bool group = (st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && st.st_gid != ::getgid();
  const bool capabilities = ::getuid() != 0 && ::getxattr(path.c_str(), "security.capability", nullptr, 0) > 0;
  if (!user && !group && !capabilities) return {};
  return fail(ErrorKind::kUnsupported, path + ": runs with rights of its own (" + (user ? "set-user-ID" : group ? "set-group-ID" : "file capabilities") + "), so it cannot be given softkvm");
}

// A program that the dynamic linker does not start never sees LD_PRELOAD; nor does one that runs with rights of its own.
Result<> check_program(const std::string& path) {
  OwnedFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return check_rights(path);  // it may be run without being read; else exec says what is wrong
  Elf64_Ehdr header;
  if (::pread(file.get(), &header, sizeof header, 0) != sizeof header || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return {};  // a script
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
    return fail(ErrorKind::kUnsupported, path + ": is no 64-bit x86 program");
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  const ssize_t size = static_cast<ssize_t>(segments.size() * sizeof(Elf64_Phdr));
  if (header.e_phentsize != sizeof(Elf64_Phdr) || ::pread(file.get(), segments.data(), static_cast<size_t>(size), static_cast<off_t>(header.e_phoff)) != size) return {};
  for (const Elf64_Phdr& segment : segments)
    if (segment.p_type == PT_INTERP) return check_rights(path);
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
  TRY_VOID(check_preloadable(library));
  TRY_VOID(check_program(find_program(argv[first])));
  if (const char* others = std::getenv("LD_PRELOAD"); others != nullptr && *others != 0) library += std::string(":") + others;
  ::setenv("LD_PRELOAD", library.c_str(), 1);
  std::vector<char*> arguments(argv + first, argv + argc);
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  return fail_errno(arguments[0]);
}

}  // namespace vireo::cli
