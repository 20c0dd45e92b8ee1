// SPDX-License-Identifier: Apache-2.0
#include "cli/img/unfinished_target.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "storage/image/open.h"

namespace vireo::cli::img {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};
struct sigaction g_before[std::size(kSignals)];
// What the handler needs, made beforehand: it may allocate nothing.
std::vector<std::string> g_made;
std::string g_removed, g_left;

void end(int signal) {
  bool removed = false;
  for (const std::string& path : g_made) removed |= unlink(path.c_str()) == 0;
  const std::string& line = removed ? g_removed : g_left;
  [[maybe_unused]] const ssize_t said = write(STDERR_FILENO, line.data(), line.size());
  raise(signal);  // by SA_RESETHAND this ends the process, when the handler has returned
}

}  // namespace

UnfinishedTarget::UnfinishedTarget(const std::string& self, const std::vector<std::string>& files) {
  g_made.clear();
  for (const std::string& file : files) {
    struct stat st;
    if (auto path = storage::plain_path(file); path && lstat(path->c_str(), &st) != 0 && errno == ENOENT) g_made.push_back(std::move(*path));
  }
  const std::string what = self + ": interrupted: '" + (files.empty() ? std::string() : files[0]) + "' ";
  g_removed = what + "is removed, it was not complete\n";
  g_left = what + "is not complete\n";
  struct sigaction action = {};
  action.sa_handler = end;
  action.sa_flags = SA_RESETHAND;
  for (int signal : kSignals) sigaddset(&action.sa_mask, signal);
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], nullptr, &g_before[i]);
    if (g_before[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
  }
}

UnfinishedTarget::~UnfinishedTarget() {
  for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &g_before[i], nullptr);
}

}  // namespace vireo::cli::img
