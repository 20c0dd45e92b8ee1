// SPDX-License-Identifier: Apache-2.0
#include "kvm/accelerator.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>

#include "base/owned_fd.h"
#include "kvm/probe.h"

namespace vireo::kvm {
namespace {

struct Verdict {
  bool fit = false;
  std::string reason;
};

// What the verdict depends on: boot, kernel, CPU model.
std::string host_key() {
  std::string boot, line, model;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  std::ifstream cpuinfo("/proc/cpuinfo");
  while (std::getline(cpuinfo, line))
    if (line.starts_with("model name")) {
      model = line.substr(line.find(':') + 1);
      break;
    }
  utsname names{};
  uname(&names);
  return boot + "|" + names.release + "|" + model;
}

// A directory is fit when it is ours and nobody else can write there.
bool own_directory(const std::string& path) {
  if (mkdir(path.c_str(), 0700) && errno != EEXIST) return false;
  struct stat st;
  return lstat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022);
}

std::optional<Verdict> read_verdict(const std::string& path, const std::string& key) {
  OwnedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat st;
  if (!fd.valid() || fstat(fd.get(), &st) || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022)) return {};
  char buffer[2048];
  ssize_t size = read(fd.get(), buffer, sizeof buffer);
  if (size <= 0) return {};
  std::istringstream in(std::string(buffer, size));
  std::string stored, fit, reason;
  if (!std::getline(in, stored) || stored != key || !std::getline(in, fit) || !std::getline(in, reason)) return {};
  return Verdict{fit == "fit", reason};
}

void write_verdict(const std::string& path, const std::string& key, const Verdict& verdict) {
  std::string temporary = path + "." + std::to_string(getpid());
  OwnedFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return;  // the next start measures again
  std::string text = key + "\n" + (verdict.fit ? "fit" : "unfit") + "\n" + verdict.reason + "\n";
  if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) || rename(temporary.c_str(), path.c_str()))
    unlink(temporary.c_str());
}

Verdict judge_kernel() {
  auto result = probe(kernel_api());
  if (!result) return {false, result.error().message};
  return {result->fit(), result->fit() ? "measured" : "/dev/kvm " + result->reason()};
}

}  // namespace

std::string verdict_path() {
  const char* home = getenv("HOME");
  const char* xdg = getenv("XDG_CACHE_HOME");
  std::string base = xdg && *xdg == '/' ? xdg : home && *home == '/' ? std::string(home) + "/.cache" : "";
  if (!base.empty()) {
    mkdir(base.c_str(), 0700);
    if (own_directory(base + "/vireo")) return base + "/vireo/kvm-verdict";
  }
  for (const std::string& directory : {std::string("/var/cache/vireo"), "/tmp/vireo-" + std::to_string(geteuid())})
    if (own_directory(directory)) return directory + "/kvm-verdict";
  return "";
}

Result<AcceleratorChoice> choose_accelerator(AcceleratorWish wish) {
  const Api* soft = soft_api();
  if (wish == AcceleratorWish::kKvm) return AcceleratorChoice{&kernel_api(), ""};
  if (wish == AcceleratorWish::kSoft) {
    if (!soft) return fail(ErrorKind::kUnsupported, "--accel soft: this build has no software hypervisor");
    return AcceleratorChoice{soft, ""};
  }
  if (access("/dev/kvm", R_OK | W_OK)) {
    std::string why = std::string("/dev/kvm: ") + strerror(errno);
    if (!soft) return fail(ErrorKind::kUnsupported, "--accel auto: " + why + ", and this build has no software hypervisor");
    return AcceleratorChoice{soft, "using the software hypervisor (" + why + ")"};
  }
  if (!soft) return AcceleratorChoice{&kernel_api(), ""};
  std::string path = verdict_path(), key = host_key();
  std::optional<Verdict> verdict;
  if (!path.empty()) verdict = read_verdict(path, key);
  if (!verdict) {
    verdict = judge_kernel();
    if (!path.empty()) write_verdict(path, key, *verdict);
  }
  if (verdict->fit) return AcceleratorChoice{&kernel_api(), ""};
  return AcceleratorChoice{soft, "using the software hypervisor (" + verdict->reason + ")"};
}

}  // namespace vireo::kvm
