// SPDX-License-Identifier: Apache-2.0
#include "cli/run.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "base/event_loop.h"
#include "base/log.h"
#include "cli/console.h"
#include "cli/devices.h"
#include "cli/terminal.h"
#include "cli/window_size.h"
#include "control/control_port.h"
#include "control/runtime_folder.h"
#include "control/statistics_port.h"
#include "machine/board.h"
#include "machine/char_fd.h"

namespace vireo::cli {
namespace {

// A CharFd with the descriptors it speaks through.
struct SerialEnd {
  OwnedFd fd;
  std::unique_ptr<CharFd> backend;
  bool stdio = false, file = false;
};

Result<OwnedFd> open_pty() {
  OwnedFd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master.valid() || grantpt(master.get()) || unlockpt(master.get())) return fail_errno("pty");
  char name[128];
  if (ptsname_r(master.get(), name, sizeof name)) return fail_errno("pty");
  // Held open on our side in raw mode, so that the master neither echoes nor hangs up while nobody is connected.
  int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) return fail_errno(std::string("pty ") + name);
  termios raw;
  if (tcgetattr(slave, &raw) == 0) {
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
  }
  fprintf(stderr, "vireo: serial port on %s\n", name);
  return master;
}

Result<SerialEnd> open_serial(const SerialOptions& options, EventLoop& loop, const char* option) {
  SerialEnd end;
  switch (options.kind) {
    case SerialOptions::Kind::kStdio:
      end.backend = std::make_unique<CharFd>(loop, STDIN_FILENO, STDOUT_FILENO);
      end.stdio = true;
      break;
    case SerialOptions::Kind::kFile:
      // Emptied when the machine starts: another option may be wrong, and what the last machine said is not lost for that.
      end.fd.reset(open(options.path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
      if (!end.fd.valid()) return fail_errno(std::string(option) + " file:" + options.path);
      end.file = true;
      end.backend = std::make_unique<CharFd>(loop, -1, end.fd.get());
      break;
    case SerialOptions::Kind::kNull:
      end.backend = std::make_unique<CharFd>(loop, -1, -1);
      break;
    case SerialOptions::Kind::kPty:
      end.fd = TRY(open_pty());
      end.backend = std::make_unique<CharFd>(loop, end.fd.get(), end.fd.get());
      break;
  }
  return end;
}

Result<> empty_file(const SerialEnd& end, const char* option) {
  struct stat st;
  if (!end.file || fstat(end.fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) return {};  // a FIFO or a terminal has nothing to empty
  if (ftruncate(end.fd.get(), 0) != 0) return fail_errno(std::string(option) + ": emptying the file");
  return {};
}

// For perf.
Result<> name_code(const kvm::Api& api, const kvm::CodeNames& names) {
  if (!names.any()) return {};
  const char* option = !names.jitdump_folder.empty() ? "--jitdump" : "--perf-map";
  if (!api.name_code) return fail(ErrorKind::kUnsupported, std::string(option) + ": code is translated with --accel soft alone");
  return api.name_code(names);
}

// A machine runs as well without, so an accelerator that translates nothing is no error.
Result<> keep_code(const kvm::Api& api, const kvm::CodeFolder& wanted) {
  if (wanted.path.empty()) return {};
  if (!api.keep_code) {
    log(LogLevel::kWarning, "--code-cache %s: not used, code is translated with --accel soft alone", wanted.path.c_str());
    return {};
  }
  auto kept = api.keep_code(wanted);
  if (!kept) return std::unexpected(std::move(kept).error().within("--code-cache"));
  return {};
}

// For `vireo stat`. A machine runs as well without.
std::unique_ptr<control::StatisticsPort> open_statistics(EventLoop& loop, const Machine& machine) {
  auto open = [&]() -> Result<std::unique_ptr<control::StatisticsPort>> {
    auto files = TRY(machine.statistics());
    const std::string folder = TRY(control::runtime_folder());
    return control::StatisticsPort::listen(loop, folder + "/" + std::to_string(getpid()) + control::kStatisticsSuffix, std::move(files));
  };
  auto port = open();
  if (port) return std::move(*port);
  log(LogLevel::kInfo, "no statistics for vireo stat: %s", port.error().message.c_str());
  return nullptr;
}

// For --qmp and `vireo ctl`; of these two only the first must be.
Result<std::unique_ptr<control::ControlPort>> open_control(const RunOptions& options, const AddedDevices& devices, Machine& machine) {
  control::ControlPort::Config config{.package = std::string("vireo ") + VIREO_VERSION, .identity = {.name = options.name, .uuid = "00000000-0000-0000-0000-000000000000", .kvm = true}, .paths = options.qmp, .disks = devices.disks};
  auto port = TRY(control::ControlPort::create(config, machine));
  auto own = [&]() -> Result<> {
    const std::string folder = TRY(control::runtime_folder());
    return port->listen(folder + "/" + std::to_string(getpid()) + control::kControlSuffix);
  };
  if (auto made = own(); !made) log(LogLevel::kInfo, "no socket for vireo ctl: %s", made.error().message.c_str());
  return port;
}

// SIGTERM and SIGINT: first the power button, then the end. SIGHUP: the end, since who could press once more has gone; images are closed, so that
// dirty bitmaps and what lies in memory are not lost.
class Signals {
 public:
  Signals(EventLoop& loop, Machine& machine) : loop_(loop), machine_(machine) {}
  ~Signals() {
    if (fd_.valid()) loop_.unwatch(fd_.get());
  }
  static void block() {
    sigset_t set = wanted();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGCHLD, SIG_DFL);  // may have been inherited as ignored; how children end is waited for
  }
  Result<> start() {
    sigset_t set = wanted();
    fd_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd_.valid()) return fail_errno("signalfd");
    return loop_.watch(fd_.get(), EPOLLIN, [this](uint32_t) {
      signalfd_siginfo info;
      while (read(fd_.get(), &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGHUP) {
          log(LogLevel::kWarning, "signal %u: the terminal has gone, the machine ends", info.ssi_signo);
          machine_.request_end(0);
        } else if (count_++ == 0) {
          log(LogLevel::kWarning, "signal %u: pressing the guest's power button; once more ends it", info.ssi_signo);
          machine_.press_power_button();
        } else {
          machine_.request_end(0);
        }
      }
    });
  }

 private:
  static sigset_t wanted() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    struct sigaction hang_up;
    if (sigaction(SIGHUP, nullptr, &hang_up) == 0 && hang_up.sa_handler != SIG_IGN) sigaddset(&set, SIGHUP);  // ignored: nohup(1)
    return set;
  }
  EventLoop& loop_;
  Machine& machine_;
  OwnedFd fd_;
  unsigned count_ = 0;
};

}  // namespace

Result<int> run(const RunOptions& options) {
  Signals::block();  // before any thread exists
  WindowSize::block_signal();
  auto choice = TRY(kvm::choose_accelerator(options.accelerator));
  if (!choice.note.empty()) log(LogLevel::kWarning, "%s", choice.note.c_str());
  TRY_VOID(name_code(*choice.api, options.code_names));
  TRY_VOID(keep_code(*choice.api, options.code_folder));
  auto loop = TRY(EventLoop::create());
  SerialEnd serial = TRY(open_serial(options.serial, *loop, "--serial"));
  SerialEnd virtio_console;
  if (options.virtio_console) virtio_console = TRY(open_serial(options.console, *loop, "--console"));
  // Before the hypervisor installs its fault handlers: those pass on what is not theirs to the ones they found.
  bool stdio = serial.stdio || virtio_console.stdio;
  Terminal terminal = stdio ? TRY(Terminal::raw()) : TRY(Terminal::none());
  auto machine = TRY(Machine::create(options.machine, *choice.api, *loop, serial.backend.get()));
  const AddedDevices added = TRY(add_devices(*machine, options, virtio_console.backend.get()));
  virtio::Console* hvc = added.console;
  std::unique_ptr<WindowSize> window;
  if (hvc && virtio_console.stdio) window = TRY(WindowSize::follow(*loop, *hvc));
  std::unique_ptr<Console> console;
  if (terminal.active()) console = std::make_unique<Console>(*machine, serial.stdio ? *serial.backend : *virtio_console.backend);
  std::unique_ptr<control::StatisticsPort> statistics = open_statistics(*loop, *machine);
  auto control = TRY(open_control(options, added, *machine));
  Signals signals(*loop, *machine);
  TRY_VOID(signals.start());
  int status = 0;
  machine->set_on_end([&](int value) {
    status = value;
    loop->stop();
  });
  TRY_VOID(empty_file(serial, "--serial"));
  TRY_VOID(empty_file(virtio_console, "--console"));
  TRY_VOID(machine->start());
  control->start();
  loop->run();
  control->told_end();
  control.reset();
  serial.backend->flush();
  if (virtio_console.backend) virtio_console.backend->flush();
  return status;
}

}  // namespace vireo::cli
