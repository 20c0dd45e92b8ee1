// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal.h"

#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

namespace vireo::cli {
namespace {

termios g_before;
volatile sig_atomic_t g_changed = 0;
constexpr int kFatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGQUIT};
struct sigaction g_previous[sizeof kFatal / sizeof *kFatal];

void restore() {
  if (!g_changed) return;
  g_changed = 0;
  tcsetattr(STDIN_FILENO, TCSADRAIN, &g_before);
}

// Puts the terminal back, then lets the signal do what it did before us: softkvm owns some of these for the guest's faults, and its
// handler must keep seeing them, so this one is only installed where nobody was.
void on_fatal(int signal) {
  restore();
  std::signal(signal, SIG_DFL);
  raise(signal);
}

}  // namespace

Result<Terminal> Terminal::raw() {
  if (!isatty(STDIN_FILENO)) return Terminal(false);
  if (tcgetattr(STDIN_FILENO, &g_before)) return fail_errno("terminal");
  termios wanted = g_before;
  cfmakeraw(&wanted);
  if (tcsetattr(STDIN_FILENO, TCSANOW, &wanted)) return fail_errno("terminal");
  g_changed = 1;
  atexit(restore);
  for (size_t i = 0; i < sizeof kFatal / sizeof *kFatal; i++) {
    sigaction(kFatal[i], nullptr, &g_previous[i]);
    if (g_previous[i].sa_handler != SIG_DFL) continue;
    struct sigaction action {};
    action.sa_handler = on_fatal;
    action.sa_flags = SA_NODEFER;
    sigaction(kFatal[i], &action, nullptr);
  }
  return Terminal(true);
}

Terminal::~Terminal() {
  if (active_) restore();
}

}  // namespace vireo::cli
