// SPDX-License-Identifier: Apache-2.0
#include "control/runtime_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

namespace vireo::control {
namespace {

std::vector<std::string> candidates() {
  std::vector<std::string> found;
  const char* xdg = getenv("XDG_RUNTIME_DIR");
  if (xdg && *xdg == '/') found.push_back(std::string(xdg) + "/vireo");
  if (geteuid() == 0) found.push_back("/run/vireo");
  found.push_back("/tmp/vireo-" + std::to_string(geteuid()));
  return found;
}

bool own(const std::string& path) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022);
}

}  // namespace

Result<std::string> runtime_folder() {
  std::string tried;
  for (const std::string& path : candidates()) {
    if (mkdir(path.c_str(), 0700) && errno != EEXIST) tried += " " + path + ": " + strerror(errno) + ";";
    else if (own(path)) return path;
    else tried += " " + path + ": not this user's own;";
  }
  return fail(ErrorKind::kIo, "no folder for sockets:" + tried);
}

std::vector<std::string> runtime_folders() {
  std::vector<std::string> found;
  for (const std::string& path : candidates())
    if (own(path)) found.push_back(path);
  return found;
}

}  // namespace vireo::control
