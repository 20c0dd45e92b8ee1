// SPDX-License-Identifier: Apache-2.0
// Whole machines with multiboot kernels of a few instructions, on every board and hypervisor there is.
#include "machine/machine.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "kvm/system.h"
#include "machine/board.h"
#include "virtio/rng.h"

namespace vireo {
namespace {

using Board = MachineConfig::BoardKind;

struct Sink final : CharBackend {
  void connect(CharFrontend*) override {}
  bool write(std::byte b) override {
    text += static_cast<char>(b);
    return true;
  }
  void room_made() override {}
  std::string text;
};

// A file with a multiboot header that gives its addresses: loads at 1 MiB, starts right behind the header.
class Kernel {
 public:
  explicit Kernel(std::initializer_list<std::initializer_list<uint8_t>> parts) {
    constexpr uint32_t kMagic = 0x1badb002, kFlags = 1u << 16, kLoad = 0x100000;
    uint32_t header[8] = {kMagic, kFlags, 0u - kMagic - kFlags, kLoad, kLoad, 0, 0, kLoad + 32};
    int fd = mkstemp(path_);
    EXPECT_EQ(write(fd, header, sizeof header), static_cast<ssize_t>(sizeof header));
    for (auto& part : parts) EXPECT_EQ(write(fd, part.begin(), part.size()), static_cast<ssize_t>(part.size()));
    close(fd);
  }
  ~Kernel() { unlink(path_); }
  std::string path() const { return path_; }

 private:
  char path_[32] = "/tmp/vireo-kernel-XXXXXX";
};

// An ELF kernel that is entered in 64-bit mode as Linux's vmlinux is, with at least 4 KiB at 1 MiB.
class Elf64Kernel {
 public:
  explicit Elf64Kernel(std::initializer_list<uint8_t> code) {
    constexpr uint64_t kLoad = 0x100000;
    Elf64_Ehdr head{};
    memcpy(head.e_ident, ELFMAG, SELFMAG);
    head.e_ident[EI_CLASS] = ELFCLASS64;
    head.e_type = ET_EXEC, head.e_machine = EM_X86_64, head.e_entry = kLoad, head.e_phoff = sizeof head, head.e_phnum = 1;
    const Elf64_Phdr part{PT_LOAD, PF_R | PF_X, sizeof head + sizeof part, kLoad, kLoad, code.size(), 4096, 0};
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&head), sizeof head).write(reinterpret_cast<const char*>(&part), sizeof part);
    file.write(reinterpret_cast<const char*>(code.begin()), static_cast<std::streamsize>(code.size()));
  }
  ~Elf64Kernel() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = testing::TempDir() + "vireo-elf-kernel-" + std::to_string(getpid());
};

struct Case {
  const kvm::Api* api;
  Board board;
};

std::vector<Case> cases(std::optional<Board> only = {}) {
  std::vector<Case> all;
  std::vector<const kvm::Api*> apis;
  if (kvm::System::open(kvm::kernel_api())) apis.push_back(&kvm::kernel_api());
  if (kvm::soft_api()) apis.push_back(kvm::soft_api());
  for (const kvm::Api* api : apis)
    for (Board board : {Board::kMicrovm, Board::kQ35}) if (!only || board == only) all.push_back({api, board});
  return all;
}

class MachineTest : public testing::TestWithParam<Case> {
 protected:
  int run(const auto& kernel, bool reboot = true, std::optional<VgaConfig> vga = {}) {
    auto loop = std::move(*EventLoop::create());
    MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .boot = {.kernel = kernel.path()}, .reboot = reboot, .debug_exit = 0xf4};
    config.vga = std::move(vga);
    auto machine = Machine::create(config, *GetParam().api, *loop, &serial);
    EXPECT_TRUE(machine) << machine.error().message;
    if (!machine) return -1;
    int status = -1;
    (*machine)->set_on_end([&](int value) {
      status = value;
      loop->stop();
    });
    auto started = (*machine)->start();
    EXPECT_TRUE(started) << started.error().message;
    if (started) loop->run();
    return status;
  }
  Sink serial;
};

// Pieces of 32-bit code.
#define OUT8(port, value) {0x66, 0xba, (port)&0xff, (port) >> 8, 0xb0, value, 0xee}  // mov dx,port; mov al,value; out dx,al
#define EXIT(value) {0xb0, value, 0xe6, 0xf4, 0xeb, 0xfe}                            // mov al,value; out 0xf4,al; jmp $

TEST_P(MachineTest, MultibootKernelSpeaksAndExits) {
  Kernel kernel({OUT8(0x3f8, 'o'), OUT8(0x3f8, 'k'), EXIT(5)});
  EXPECT_EQ(run(kernel), 11);
  EXPECT_EQ(serial.text, "ok");
}

TEST_P(MachineTest, MagicAndInformationArePassed) {
  // cmp eax,0x2badb002; jne fail; test dword [ebx],1; jz fail; exit 1; fail: exit 2
  Kernel kernel({{0x3d, 0x02, 0xb0, 0xad, 0x2b, 0x75, 0x0e, 0xf7, 0x03, 0x01, 0x00, 0x00, 0x00, 0x74, 0x06}, EXIT(1), EXIT(2)});
  EXPECT_EQ(run(kernel), 3);
}

TEST_P(MachineTest, AKernelInLongModeHasAStack) {
  Elf64Kernel kernel({0xe8, 0, 0, 0, 0, 0x58, 0xb0, 1, 0xe6, 0xf4, 0xeb, 0xfe});  // call next; next: pop rax; exit 1
  EXPECT_EQ(run(kernel, false), 3);
}

TEST_P(MachineTest, AcpiSoftOffEndsWithStatusZero) {
  // mov dx,0x604; mov ax,SLP_EN | S5; out dx,ax; jmp $
  Kernel kernel({{0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20 | 7 << 2, 0x66, 0xef, 0xeb, 0xfe}});
  EXPECT_EQ(run(kernel), 0);
}

// With interrupts off: the local APIC's request register shows what has come. Where ACPI's tables and the firmware's say that it does.
TEST_P(MachineTest, TheTimerIsOnTheIoapicsPinTwo) {
  Kernel kernel({{0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00},  // mov dword [0xfee000f0],0x1ff: APIC on
                 {0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x14, 0x00, 0x00, 0x00},  // mov dword [0xfec00000],0x14: pin 2
                 {0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x41, 0x00, 0x00, 0x00},  // mov dword [0xfec00010],0x41: its vector
                 OUT8(0x43, 0x34), OUT8(0x40, 0x00), OUT8(0x40, 0x10),
                 {0xb9, 0x00, 0x00, 0x10, 0x00},                                // mov ecx,0x100000
                 {0xf7, 0x05, 0x20, 0x02, 0xe0, 0xfe, 0x02, 0x00, 0x00, 0x00},  // test dword [0xfee00220],2
                 {0x75, 0x09, 0x49, 0x75, 0xf1},                                // jnz +9; dec ecx; jnz back
                 EXIT(2), EXIT(1)});
  EXPECT_EQ(run(kernel), 3);
}

// The first boot finds zero in an NVRAM byte, sets it and resets; the second one exits.
#define SECOND_BOOT_EXITS                                                                                   \
  OUT8(0x70, 0x40), {0xe4, 0x71, 0x84, 0xc0, 0x74, 0x06}, EXIT(9), /* in al,0x71; test al,al; jz next */    \
      OUT8(0x70, 0x40), OUT8(0x71, 1), OUT8(0x3f8, 'r')

TEST_P(MachineTest, ResetRegisterBootsAgain) {
  Kernel kernel({SECOND_BOOT_EXITS, OUT8(0xcf9, 6), {0xeb, 0xfe}});
  EXPECT_EQ(run(kernel), 19);
  EXPECT_EQ(serial.text, "r");
}

TEST_P(MachineTest, KeyboardControllerBootsAgain) {
  Kernel kernel({SECOND_BOOT_EXITS, OUT8(0x64, 0xfe), {0xeb, 0xfe}});
  EXPECT_EQ(run(kernel), 19);
}

TEST_P(MachineTest, NoRebootTurnsResetIntoTheEnd) {
  Kernel kernel({OUT8(0xcf9, 6), {0xeb, 0xfe}});
  EXPECT_EQ(run(kernel, false), 0);
}

// A device that holds the vCPU's thread until it is told, and has the machine's loop do something meanwhile.
struct SlowDevice final : Device {
  void read(Access, std::span<std::byte>) override {}
  void write(Access, std::span<const std::byte>) override {
    loop->post(meanwhile);
    while (!done) usleep(1000);
  }
  void reset(ResetKind) override {}
  void fields(Archive&) override {}
  EventLoop* loop;
  std::function<void()> meanwhile;
  std::atomic<bool> done{false};
};

// Pausing turns the loop until the vCPU has stopped, and what comes then may be the end.
TEST_P(MachineTest, AMachineThatEndsWhileItIsPausedHasEndedOnce) {
  Kernel kernel({OUT8(0x5f0, 1), {0xeb, 0xfe}});
  auto loop = std::move(*EventLoop::create());
  MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .boot = {.kernel = kernel.path()}};
  auto machine = std::move(*Machine::create(config, *GetParam().api, *loop, &serial));
  SlowDevice slow;
  slow.loop = loop.get();
  int ends = 0, events = 0;
  MachineStatus status{};
  std::thread later;  // lets the vCPU go when the loop waits for it
  slow.meanwhile = [&] {
    machine->request_end(1);
    machine->request_end(2);
    later = std::thread([&] { usleep(100'000), slow.done = true; });
    machine->pause();
    status = machine->status();
    loop->stop();
  };
  machine->set_on_end([&](int) { ++ends; });
  machine->set_on_event([&](MachineEvent) { ++events; });
  ASSERT_TRUE(machine->ports().add(0x5f0, 1, slow));
  ASSERT_TRUE(machine->start());
  loop->run();
  EXPECT_EQ(status, MachineStatus::kEnded);
  EXPECT_EQ(ends, 1);
  EXPECT_EQ(events, 0);
  later.join();
  machine.reset();
}

// A device whose vCPU waits for the machine's loop, as a virtio device's does that is set up, behind something else that was posted to it.
struct WaitingDevice final : Device {
  void read(Access, std::span<std::byte>) override {}
  void write(Access, std::span<const std::byte>) override {
    loop->post([] { usleep(50'000); });  // the next two are taken together
    usleep(10'000);
    before();
    loop->call([&] { served = true; });
  }
  void reset(ResetKind) override {}
  void fields(Archive&) override {}
  EventLoop* loop;
  std::function<void()> before;
  bool served = false;
};

// What stops vCPUs does not hold up what the loop does for one of them.
TEST_P(MachineTest, AVcpuThatWaitsForTheLoopStopsWhereTheEndWasPostedBefore) {
  Kernel kernel({OUT8(0x5f0, 1), {0xeb, 0xfe}});
  auto loop = std::move(*EventLoop::create());
  MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .boot = {.kernel = kernel.path()}};
  auto machine = std::move(*Machine::create(config, *GetParam().api, *loop, &serial));
  WaitingDevice device;
  device.loop = loop.get();
  device.before = [&] { machine->request_end(3); };
  int status = 0;
  machine->set_on_end([&](int value) {
    status = value;
    loop->stop();
  });
  ASSERT_TRUE(machine->ports().add(0x5f0, 1, device));
  ASSERT_TRUE(machine->start());
  loop->run();
  EXPECT_EQ(status, 3);
  EXPECT_TRUE(device.served);
  machine.reset();
}

TEST_P(MachineTest, AVcpuThatWaitsForTheLoopStopsWhereAPauseWasPostedBefore) {
  Kernel kernel({OUT8(0x5f0, 1), {0xeb, 0xfe}});
  auto loop = std::move(*EventLoop::create());
  MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .boot = {.kernel = kernel.path()}};
  auto machine = std::move(*Machine::create(config, *GetParam().api, *loop, &serial));
  WaitingDevice device;
  device.loop = loop.get();
  bool first = true;
  std::function<void()> pause = [&] {
    const bool done = machine->try_pause();
    if (std::exchange(first, false)) {
      EXPECT_FALSE(done);
    }
    if (done)
      loop->stop();
    else
      loop->post(pause);
  };
  device.before = [&] { loop->post(pause); };
  ASSERT_TRUE(machine->ports().add(0x5f0, 1, device));
  ASSERT_TRUE(machine->start());
  loop->run();
  EXPECT_EQ(machine->status(), MachineStatus::kPaused);
  EXPECT_TRUE(device.served);
  machine.reset();
}

// Nor where the pause turns the loop itself, as `stop` of QMP does: what was posted behind it is found.
TEST_P(MachineTest, AVcpuThatWaitsForTheLoopStopsWhereAPauseThatTurnsItWasPostedBefore) {
  Kernel kernel({OUT8(0x5f0, 1), {0xeb, 0xfe}});
  auto loop = std::move(*EventLoop::create());
  MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .boot = {.kernel = kernel.path()}};
  auto machine = std::move(*Machine::create(config, *GetParam().api, *loop, &serial));
  WaitingDevice device;
  device.loop = loop.get();
  device.before = [&] {
    loop->post([&] {
      machine->pause();
      loop->stop();
    });
  };
  ASSERT_TRUE(machine->ports().add(0x5f0, 1, device));
  ASSERT_TRUE(machine->start());
  loop->run();
  EXPECT_EQ(machine->status(), MachineStatus::kPaused);
  EXPECT_TRUE(device.served);
  machine.reset();
}

TEST_P(MachineTest, AResetThatComesBeforeASuspendIsDoneIsNotForgotten) {
  Kernel kernel({{0xeb, 0xfe}});
  auto loop = std::move(*EventLoop::create());
  MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .boot = {.kernel = kernel.path()}};
  auto machine = std::move(*Machine::create(config, *GetParam().api, *loop, &serial));
  std::vector<MachineEvent> events;
  machine->set_on_event([&](MachineEvent event) {
    events.push_back(event);
    if (event == MachineEvent::kReset) loop->stop();
  });
  auto timeout = loop->create([&] { loop->stop(); });
  ASSERT_TRUE(machine->start());
  loop->post([&] {
    machine->request_suspend();
    machine->request_reset();
  });
  timeout->arm(loop->now_ns() + 2'000'000'000);
  loop->run();
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back(), MachineEvent::kReset);
  EXPECT_EQ(machine->status(), MachineStatus::kRunning);
  machine.reset();
}

class VgaMachineTest : public MachineTest {};

// QEMU's standard VGA has Bochs's data port at 0x1cf, as a PC's programs use it, and at 0x1d0; version 0xb0c5.
TEST_P(VgaMachineTest, BochssDisplayInterfaceTakesWordsAtItsPorts) {
#define READ16(port) {0x66, 0xba, (port)&0xff, (port) >> 8, 0x66, 0xed}  // mov dx,port; in ax,dx
  Kernel kernel({{0x31, 0xc0, 0x66, 0xba, 0xce, 0x01, 0x66, 0xef},  // xor eax,eax; mov dx,0x1ce; out dx,ax
                 READ16(0x1cf), {0x66, 0x3d, 0xc5, 0xb0, 0x74, 0x06}, EXIT(2),  // cmp ax,0xb0c5; je +6
                 READ16(0x1d0), {0x66, 0x3d, 0xc5, 0xb0, 0x74, 0x06}, EXIT(3), EXIT(1)});
  EXPECT_EQ(run(kernel, true, VgaConfig{}), 3);
}

struct Flag final : Device {
  void read(Access, std::span<std::byte>) override {}
  void write(Access, std::span<const std::byte>) override { written = true; }
  void reset(ResetKind) override {}
  void fields(Archive&) override {}
  std::atomic<bool> written{false};
};

// Where the hypervisor has eventfds alone, as Linux does.
TEST_P(MachineTest, ABellThatNobodyHasHeardIsNotRungForADeviceThatIsGone) {
  kvm::Api api = *GetParam().api;
  api.add_doorbell = nullptr;
  Kernel kernel({{0xc7, 0x05, 0x50, 0x00, 0x00, 0xd0, 0x00, 0x00, 0x00, 0x00},  // mov dword [0xd0000050],0: microvm's first device, QueueNotify
                 OUT8(0x5f0, 1), {0xeb, 0xfe}});
  auto loop = std::move(*EventLoop::create());
  MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .boot = {.kernel = kernel.path()}};
  auto machine = std::move(*Machine::create(config, api, *loop, &serial));
  ASSERT_TRUE(machine->board().add(std::move(*virtio::Rng::create({}, {*loop, *loop, *loop}))));
  Flag rung;
  ASSERT_TRUE(machine->ports().add(0x5f0, 1, rung));
  ASSERT_TRUE(machine->start());
  while (!rung.written) usleep(1000);
  machine.reset();
}

// Waits for the test to have written to memory (byte 0x2000), lets the clock's alarm wake each second, and sleeps: SLP_EN | SLP_TYP of S3.
#define SUSPENDS                                                                                                      \
  {0x80, 0x3d, 0x00, 0x20, 0x00, 0x00, 0x00, 0x74, 0xf7}, /* cmp byte [0x2000],0; je $-7 */                             \
      OUT8(0x603, 4), OUT8(0x70, 1), OUT8(0x71, 0xc0), OUT8(0x70, 3), OUT8(0x71, 0xc0), OUT8(0x70, 5), OUT8(0x71, 0xc0), \
      OUT8(0x70, 0x0b), OUT8(0x71, 0x22), {0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20 | 1 << 2, 0x66, 0xef, 0xeb, 0xfe}

class SuspendTest : public MachineTest {
 protected:
  // Starts, gives the guest a FACS with `vector` or `x_vector` and code there, and waits for the end.
  int suspend(uint32_t vector, uint64_t x_vector, std::vector<uint8_t> code) {
    Kernel kernel({SUSPENDS});
    auto loop = std::move(*EventLoop::create());
    MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .boot = {.kernel = kernel.path()}, .reboot = false, .debug_exit = 0xf4};
    auto machine = std::move(*Machine::create(config, *GetParam().api, *loop, &serial));
    int status = -1;
    machine->set_on_end([&](int value) {
      status = value;
      loop->stop();
    });
    EXPECT_TRUE(machine->start());
    auto put = [&](uint64_t at, std::span<const uint8_t> bytes) { EXPECT_TRUE(machine->memory().write(GuestAddress{at}, std::as_bytes(bytes))); };
    auto bytes_of = [](auto& value) { return std::span(reinterpret_cast<const uint8_t*>(&value), sizeof value); };
    const uint64_t facs = raw(machine->board().facs());
    put(facs + 12, bytes_of(vector));
    put(facs + 24, bytes_of(x_vector));
    put(vector ? vector : x_vector, code);
    const uint8_t go = 21;
    put(0x2000, {&go, 1});
    loop->run();
    return status;
  }
};

TEST_P(SuspendTest, AnAlarmWakesItAtTheWakingVectorInRealModeWithMemoryKept) {
  // mov al,[0x2000]; out 0xf4,al; jmp $
  EXPECT_EQ(suspend(0x3004, 0, {0xa0, 0x00, 0x20, 0xe6, 0xf4, 0xeb, 0xfe}), 43);
}

TEST_P(SuspendTest, TheWideWakingVectorIsEnteredInProtectedMode) {
  // mov al,[0x2000] with a 32-bit offset; out 0xf4,al; jmp $
  EXPECT_EQ(suspend(0, 0x123450, {0xa0, 0x00, 0x20, 0x00, 0x00, 0xe6, 0xf4, 0xeb, 0xfe}), 43);
}

TEST_P(SuspendTest, WithoutAVectorItIsAReset) { EXPECT_EQ(suspend(0, 0, {}), 0); }

// A ROM of 128 KiB, else filled with 0xaa, that begins at the reset vector with `code` (16-bit, at its start).
class Rom {
 public:
  explicit Rom(std::span<const uint8_t> code) {
    std::vector<uint8_t> bytes(0x20000, 0xaa);
    std::ranges::copy(code, bytes.begin());
    const uint8_t vector[] = {0xea, 0x00, 0x00, 0x00, 0xe0};  // ljmp 0xe000:0
    std::ranges::copy(vector, bytes.end() - 16);
    int fd = mkstemp(path_);
    EXPECT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    close(fd);
  }
  ~Rom() { unlink(path_); }
  std::string path() const { return path_; }

 private:
  char path_[32] = "/tmp/vireo-rom-XXXXXX";
};

class FirmwareTest : public MachineTest {
 protected:
  static constexpr int kNotHere = -77;
  int boot(std::span<const uint8_t> code, const std::string& variables = "", bool secure = false) {
    Rom rom(code);
    auto loop = std::move(*EventLoop::create());
    MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .firmware = FirmwareConfig{.code = rom.path(), .variables = variables, .secure = secure}, .debug_exit = 0xf4};
    auto machine = Machine::create(config, *GetParam().api, *loop, &serial);
    if (secure && !machine && machine.error().kind == ErrorKind::kUnsupported) return kNotHere;
    EXPECT_TRUE(machine) << machine.error().message;
    if (!machine) return -1;
    int status = -1;
    (*machine)->set_on_end([&](int value) {
      status = value;
      loop->stop();
    });
    EXPECT_TRUE((*machine)->start());
    loop->run();
    return status;
  }
};

constexpr int kAllRight = 0x20 << 1 | 1;  // else the number of the step that failed

// At 0xe8000, through PAM6: ROM that cannot be written; writes that go to the RAM below it; RAM that cannot be written; RAM, with code in it; ROM.
constexpr uint8_t kShadow[] = {
    // clang-format off
    0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0xb8, 0x00, 0xe8, 0x8e, 0xd8, 0xb3, 0x01, 0x80, 0x3e, 0x00, 0x00, 0xaa, 0x75,
    0x63, 0xc6, 0x06, 0x00, 0x00, 0x55, 0x80, 0x3e, 0x00, 0x00, 0xaa, 0x75, 0x57, 0xb3, 0x02, 0xb0, 0x02, 0xe8, 0x56, 0x00,
    0xc6, 0x06, 0x00, 0x00, 0x55, 0x80, 0x3e, 0x00, 0x00, 0xaa, 0x75, 0x44, 0xb3, 0x03, 0xb0, 0x01, 0xe8, 0x43, 0x00, 0x80,
    0x3e, 0x00, 0x00, 0x55, 0x75, 0x36, 0xc6, 0x06, 0x00, 0x00, 0x66, 0x80, 0x3e, 0x00, 0x00, 0x55, 0x75, 0x2a, 0xb3, 0x04,
    0xb0, 0x03, 0xe8, 0x29, 0x00, 0x66, 0xc7, 0x06, 0x00, 0x00, 0x90, 0xb3, 0x10, 0xcb, 0x9a, 0x00, 0x00, 0x00, 0xe8, 0x80,
    0xfb, 0x10, 0x75, 0x10, 0xb3, 0x11, 0x30, 0xc0, 0xe8, 0x0f, 0x00, 0x80, 0x3e, 0x00, 0x00, 0xaa, 0x75, 0x02, 0xb3, 0x20,
    0x88, 0xd8, 0xe6, 0xf4, 0xeb, 0xfe, 0x50, 0x66, 0xb8, 0x94, 0x00, 0x00, 0x80, 0xba, 0xf8, 0x0c, 0x66, 0xef, 0x58, 0xba,
    0xfe, 0x0c, 0xee, 0xc3,
    // clang-format on
};
TEST_P(FirmwareTest, TheBiosAreaReadsAndWritesAsItsPamRegistersSay) { EXPECT_EQ(boot(kShadow), kAllRight); }

// In protected mode, at 0xfffd0000: reads a byte of the array, its status, erases the block at 0x1000, programs 0x3c at 0x1235, reads the array.
constexpr uint8_t kFlash[] = {
    // clang-format off
    0x2e, 0x66, 0x0f, 0x01, 0x16, 0x90, 0x00, 0x66, 0xb8, 0x11, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xc0, 0xb8, 0x08, 0x00, 0x8e,
    0xd8, 0x66, 0xbf, 0x00, 0x00, 0xfd, 0xff, 0xb3, 0x01, 0x67, 0x80, 0x3f, 0x5a, 0x75, 0x51, 0xb3, 0x02, 0x67, 0xc6, 0x07,
    0x70, 0x67, 0x80, 0x3f, 0x80, 0x75, 0x45, 0xb3, 0x03, 0x67, 0xc6, 0x87, 0x34, 0x12, 0x00, 0x00, 0x20, 0x67, 0xc6, 0x87,
    0x34, 0x12, 0x00, 0x00, 0xd0, 0x67, 0xf6, 0x07, 0x30, 0x75, 0x2d, 0x67, 0xc6, 0x87, 0x35, 0x12, 0x00, 0x00, 0x40, 0x67,
    0xc6, 0x87, 0x35, 0x12, 0x00, 0x00, 0x3c, 0x67, 0xc6, 0x07, 0xff, 0xb3, 0x04, 0x67, 0x81, 0xbf, 0x34, 0x12, 0x00, 0x00,
    0xff, 0x3c, 0x75, 0x0c, 0x67, 0x80, 0xbf, 0x00, 0x20, 0x00, 0x00, 0x5a, 0x75, 0x02, 0xb3, 0x20, 0x88, 0xd8, 0xe6, 0xf4,
    0xeb, 0xfe, 0x8d, 0xb4, 0x00, 0x00, 0x66, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00,
    0x00, 0x93, 0xcf, 0x00, 0x0f, 0x00, 0x80, 0x00, 0xfe, 0xff,
    // clang-format on
};
TEST_P(FirmwareTest, FlashIsErasedAndProgrammedAndItsFileFollows) {
  char path[] = "/tmp/vireo-vars-XXXXXX";
  int fd = mkstemp(path);
  std::vector<uint8_t> bytes(0x10000, 0x5a);
  ASSERT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(boot(kFlash, path), kAllRight);
  std::vector<uint8_t> expected = bytes;
  std::fill_n(expected.begin() + 0x1000, 0x1000, 0xff);
  expected[0x1235] = 0x3c;
  ASSERT_EQ(pread(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  EXPECT_TRUE(bytes == expected);
  close(fd);
  unlink(path);
}

// In protected mode: 1 MiB at 0xf00000 and what is at 0xa0000 become system management mode's; a command to port 0xb2 comes to the handler, which sees
// both; the registers stay as they are once locked; fw_cfg's DMA does not reach there; the flash at 0xfffd0000 takes no command from outside that mode, and
// takes the handler's. Then the handler resets the machine, and all of it holds once more.
constexpr uint8_t kSmm[] = {
    // clang-format off
    0x66, 0x31, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0x0e, 0x1f, 0xbe, 0xf4, 0x01, 0xb8, 0x00, 0x38, 0x8e, 0xc0, 0x31, 0xff,
    0xb9, 0x47, 0x00, 0xf3, 0xa4, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x50, 0x02, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0,
    0xb8, 0x08, 0x00, 0x8e, 0xd8, 0x66, 0xbf, 0x00, 0x00, 0xf0, 0x00, 0x66, 0xbe, 0x00, 0x00, 0x0a, 0x00, 0xb3, 0x01, 0x67,
    0x66, 0xc7, 0x07, 0x44, 0x33, 0x22, 0x11, 0x67, 0x66, 0x81, 0x3f, 0x44, 0x33, 0x22, 0x11, 0x0f, 0x85, 0x40, 0x01, 0x66,
    0xba, 0x9c, 0x00, 0x00, 0x80, 0xb0, 0x4a, 0xb1, 0xfd, 0xe8, 0x6d, 0x01, 0x67, 0xc6, 0x06, 0x77, 0x67, 0x80, 0x3e, 0x77,
    0x0f, 0x85, 0x27, 0x01, 0xb3, 0x02, 0xb0, 0x0a, 0xe8, 0x5a, 0x01, 0xb0, 0x01, 0xb1, 0xfe, 0xe8, 0x53, 0x01, 0x67, 0x66,
    0x83, 0x3f, 0xff, 0x0f, 0x85, 0x10, 0x01, 0x67, 0x80, 0x3e, 0xff, 0x0f, 0x85, 0x08, 0x01, 0xb3, 0x03, 0x66, 0xba, 0x40,
    0xf8, 0x00, 0x80, 0xb0, 0x06, 0xb1, 0xfd, 0xe8, 0x33, 0x01, 0x66, 0xba, 0x44, 0xf8, 0x00, 0x80, 0xb0, 0x80, 0xb1, 0xfc,
    0xe8, 0x26, 0x01, 0x66, 0xb8, 0x21, 0x00, 0x00, 0x00, 0xba, 0x30, 0x06, 0x66, 0xef, 0x66, 0xc7, 0x06, 0x00, 0x90, 0x00,
    0x00, 0x00, 0x00, 0xb0, 0x42, 0xe6, 0xb2, 0x66, 0x81, 0x3e, 0x00, 0x90, 0x44, 0x33, 0x22, 0x11, 0x0f, 0x85, 0xc7, 0x00,
    0x80, 0x3e, 0x05, 0x90, 0x77, 0x0f, 0x85, 0xbe, 0x00, 0xb3, 0x04, 0x80, 0x3e, 0x04, 0x90, 0x42, 0x0f, 0x85, 0xb3, 0x00,
    0xba, 0x34, 0x06, 0x66, 0xed, 0xa8, 0x20, 0x0f, 0x84, 0xa8, 0x00, 0xb3, 0x05, 0x66, 0xba, 0x9c, 0x00, 0x00, 0x80, 0xb0,
    0x1a, 0xb1, 0xfd, 0xe8, 0xd3, 0x00, 0xb0, 0x00, 0xb1, 0xfe, 0xe8, 0xcc, 0x00, 0xe8, 0xe2, 0x00, 0x3c, 0x39, 0x0f, 0x85,
    0x89, 0x00, 0x67, 0x66, 0x83, 0x3f, 0xff, 0x0f, 0x85, 0x80, 0x00, 0xb3, 0x06, 0x66, 0xba, 0xa0, 0xf8, 0x00, 0x80, 0xb0,
    0x10, 0xb1, 0xfc, 0xe8, 0xab, 0x00, 0xb0, 0x00, 0xe8, 0xa6, 0x00, 0x66, 0xb8, 0x20, 0x00, 0x00, 0x00, 0xba, 0x30, 0x06,
    0x66, 0xef, 0x66, 0xed, 0x3c, 0x21, 0x75, 0x5b, 0xb3, 0x07, 0x66, 0xb8, 0x00, 0xf0, 0x00, 0x00, 0xe8, 0x56, 0x00, 0x75,
    0x4e, 0x66, 0xb8, 0x00, 0x0a, 0x00, 0x00, 0xe8, 0x4b, 0x00, 0x75, 0x43, 0xb3, 0x08, 0x66, 0xbf, 0x00, 0x00, 0xfd, 0xff,
    0x67, 0xc6, 0x47, 0x10, 0x10, 0x67, 0xc6, 0x47, 0x10, 0x00, 0x67, 0x80, 0x7f, 0x10, 0x5a, 0x75, 0x2a, 0xb3, 0x09, 0xb0,
    0x43, 0xe6, 0xb2, 0x67, 0x80, 0x7f, 0x10, 0x5a, 0x75, 0x1d, 0x67, 0x80, 0x7f, 0x20, 0x00, 0x75, 0x16, 0xb0, 0x50, 0xe6,
    0x70, 0xe4, 0x71, 0x3c, 0x01, 0xb3, 0x20, 0x74, 0x0a, 0xb0, 0x01, 0xe6, 0x71, 0xb3, 0x0a, 0xb0, 0x44, 0xe6, 0xb2, 0x88,
    0xd8, 0xe6, 0xf4, 0xeb, 0xfe, 0x66, 0xc7, 0x06, 0x00, 0x91, 0x00, 0x00, 0x00, 0x0a, 0x66, 0xc7, 0x06, 0x04, 0x91, 0x00,
    0x00, 0x00, 0x04, 0x66, 0xc7, 0x06, 0x08, 0x91, 0x00, 0x00, 0x00, 0x00, 0x66, 0xa3, 0x0c, 0x91, 0xba, 0x18, 0x05, 0x66,
    0xb8, 0x00, 0x00, 0x91, 0x00, 0x66, 0xef, 0x66, 0x81, 0x3e, 0x00, 0x91, 0x00, 0x00, 0x00, 0x01, 0xc3, 0x66, 0x50, 0x66,
    0x89, 0xd0, 0xba, 0xf8, 0x0c, 0x66, 0xef, 0x66, 0x89, 0xc2, 0x66, 0x58, 0x66, 0x52, 0xb6, 0x0c, 0x88, 0xca, 0xee, 0x66,
    0x5a, 0xc3, 0x66, 0x52, 0x66, 0x89, 0xd0, 0xba, 0xf8, 0x0c, 0x66, 0xef, 0xb6, 0x0c, 0x88, 0xca, 0xec, 0x66, 0x5a, 0xc3,
    0xe4, 0xb2, 0xa2, 0x04, 0x90, 0x3c, 0x43, 0x74, 0x20, 0x3c, 0x44, 0x74, 0x32, 0x66, 0xbe, 0x00, 0x00, 0xf0, 0x00, 0x67,
    0x66, 0x8b, 0x06, 0x66, 0xa3, 0x00, 0x90, 0x66, 0xbe, 0x00, 0x00, 0x0a, 0x00, 0x67, 0x8a, 0x06, 0xa2, 0x05, 0x90, 0x0f,
    0xaa, 0x66, 0xbe, 0x00, 0x00, 0xfd, 0xff, 0x67, 0xc6, 0x46, 0x20, 0x10, 0x67, 0xc6, 0x46, 0x20, 0x00, 0x67, 0xc6, 0x06,
    0xff, 0x0f, 0xaa, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xeb, 0xfe, 0x8d, 0xb4, 0x00, 0x00, 0x90, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00, 0x0f, 0x00, 0x40, 0x02, 0x0e, 0x00,
    // clang-format on
};
TEST_P(FirmwareTest, SystemManagementModeHasItsMemoryForItself) {
  char path[] = "/tmp/vireo-vars-XXXXXX";
  int fd = mkstemp(path);
  std::vector<uint8_t> bytes(0x10000, 0x5a);
  ASSERT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  const int status = boot(kSmm, path, true);
  std::vector<uint8_t> expected = bytes;
  expected[0x20] = 0;
  const bool read = pread(fd, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size());
  close(fd);
  unlink(path);
  if (status == kNotHere) GTEST_SKIP() << "this hypervisor has no system management mode";
  EXPECT_EQ(status, kAllRight);
  EXPECT_TRUE(read && bytes == expected);
}

TEST_P(FirmwareTest, SystemManagementModeWantsMemoryThatFirmwareCountsTheSame) {
  Rom rom({});
  auto loop = std::move(*EventLoop::create());
  MachineConfig config{.board = GetParam().board, .firmware = FirmwareConfig{.code = rom.path(), .secure = true}};
  for (uint64_t size : {512ull << 10, 1ull << 20, (16ull << 20) + 0x1000, (16ull << 20) + 0x80000}) {
    config.memory.size = size;
    auto machine = Machine::create(config, *GetParam().api, *loop, &serial);
    ASSERT_FALSE(machine);
    if (machine.error().kind == ErrorKind::kUnsupported) GTEST_SKIP() << "this hypervisor has no system management mode";
    EXPECT_EQ(machine.error().message, "--memory: --firmware secure=on needs whole MiB, 4 at least");
  }
  config.memory.size = 16 << 20;
  config.shared_memory = true;
  auto machine = Machine::create(config, *GetParam().api, *loop, &serial);
  ASSERT_FALSE(machine);
  EXPECT_NE(machine.error().message.find("vhost-user"), std::string::npos) << machine.error().message;
}

TEST_P(FirmwareTest, ImagesThatDoNotFitAreRefusedByName) {
  char path[] = "/tmp/vireo-rom-XXXXXX";
  int fd = mkstemp(path);
  auto loop = std::move(*EventLoop::create());
  for (off_t size : {0l, 1000l, (16l << 20) + 4096}) {
    ASSERT_EQ(ftruncate(fd, size), 0);
    MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .firmware = FirmwareConfig{.code = path}};
    auto machine = Machine::create(config, *GetParam().api, *loop, &serial);
    ASSERT_FALSE(machine);
    EXPECT_NE(machine.error().message.find(std::string("--firmware ") + path), std::string::npos) << machine.error().message;
  }
  close(fd);
  unlink(path);
}

TEST_P(FirmwareTest, FifosAreRefusedAtOnce) {
  const std::string path = "/tmp/vireo-fifo-" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const std::vector<uint8_t> nothing;
  Rom rom(nothing);
  auto loop = std::move(*EventLoop::create());
  MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .firmware = FirmwareConfig{.code = path}};
  auto refusal = [&] {
    auto machine = Machine::create(config, *GetParam().api, *loop, &serial);
    return machine ? "made" : machine.error().message;
  };
  EXPECT_EQ(refusal(), "--firmware " + path + ": not a regular file");
  config.firmware = FirmwareConfig{.code = rom.path(), .variables = path};
  EXPECT_EQ(refusal(), "--firmware vars=" + path + ": not a regular file");
  config.firmware = FirmwareConfig{.code = rom.path(), .debug = path};
  EXPECT_EQ(refusal(), "--firmware debug=" + path + ": No such device or address");
  config.firmware = FirmwareConfig{.code = rom.path()};
  config.vga = VgaConfig{.rom = path};
  EXPECT_EQ(refusal(), "--vga rom=" + path + ": not a regular file");
  unlink(path.c_str());
}

// An option that is refused after this one must not cost what the last machine's firmware said.
TEST_P(FirmwareTest, TheDebugFileIsEmptiedWhenTheMachineStarts) {
  // mov dx,0x402; mov al,'!'; out dx,al; mov al,0x40; out 0x70,al; in al,0x71; cmp al,1; je second; mov al,1; out 0x71,al; mov dx,0xcf9; mov al,6; out dx,al; jmp $
  // second: out 0xf4,al; jmp $
  const uint8_t code[] = {0xba, 0x02, 0x04, 0xb0, 0x21, 0xee, 0xb0, 0x40, 0xe6, 0x70, 0xe4, 0x71, 0x3c, 1, 0x74, 12, 0xb0, 1, 0xe6, 0x71,
                          0xba, 0xf9, 0x0c, 0xb0, 6, 0xee, 0xeb, 0xfe, 0xe6, 0xf4, 0xeb, 0xfe};
  Rom rom(code);
  const std::string path = "/tmp/vireo-debug-" + std::to_string(getpid());
  auto text = [&] {
    std::ifstream in(path);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  std::ofstream(path) << "said before";
  auto loop = std::move(*EventLoop::create());
  MachineConfig config{.board = GetParam().board, .memory = {.size = 16 << 20}, .firmware = FirmwareConfig{.code = rom.path(), .debug = path}, .debug_exit = 0xf4};
  auto machine = Machine::create(config, *GetParam().api, *loop, &serial);
  ASSERT_TRUE(machine) << machine.error().message;
  EXPECT_EQ(text(), "said before");
  (*machine)->set_on_end([&](int) { loop->stop(); });
  ASSERT_TRUE((*machine)->start());
  loop->run();
  machine->reset();
  EXPECT_EQ(text(), "!!");  // of both boots
  unlink(path.c_str());
}

INSTANTIATE_TEST_SUITE_P(All, MachineTest, testing::ValuesIn(cases()), [](const auto& info) {
  return std::string(info.param.api->name) + (info.param.board == Board::kQ35 ? "_q35" : "_microvm");
});
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(MachineTest);
INSTANTIATE_TEST_SUITE_P(All, VgaMachineTest, testing::ValuesIn(cases(Board::kQ35)), [](const auto& info) { return std::string(info.param.api->name); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(VgaMachineTest);
INSTANTIATE_TEST_SUITE_P(All, SuspendTest, testing::ValuesIn(cases(Board::kQ35)), [](const auto& info) { return std::string(info.param.api->name); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SuspendTest);
INSTANTIATE_TEST_SUITE_P(All, FirmwareTest, testing::ValuesIn(cases(Board::kQ35)), [](const auto& info) { return std::string(info.param.api->name); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FirmwareTest);

TEST(BootImage, RefusesWhatIsNoKernelByName) {
  auto missing = BootImage::open({.kernel = "/nowhere/vmlinuz"});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, "--kernel /nowhere/vmlinuz: No such file or directory");
  auto text = BootImage::open({.kernel = "/proc/self/comm"});
  ASSERT_FALSE(text);
  EXPECT_NE(text.error().message.find("--kernel /proc/self/comm"), std::string::npos);
  auto program = BootImage::open({.kernel = "/bin/sh"});
  ASSERT_FALSE(program);
  EXPECT_EQ(program.error().message, "--kernel /bin/sh: not a kernel but a program: it asks for a dynamic linker");
}

}  // namespace
}  // namespace vireo
