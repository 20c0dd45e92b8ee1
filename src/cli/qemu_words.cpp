// SPDX-License-Identifier: Apache-2.0
// The names are those of QEMU 7.2's qemu-options.hx.
#include "cli/qemu_words.h"

namespace vireo::cli {
namespace {

struct Habit {
  const char* names;  // between spaces
  const char* here;
};
constexpr Habit kHabits[] = {
    {" m mem ram ", "write --memory SIZE"},
    {" smp ", "write --cpus N"},
    {" M machine ", "write --board q35|microvm"},
    {" enable-kvm no-kvm ", "write --accel auto|kvm|soft"},
    {" drive hda hdb hdc hdd blockdev fda fdb ", "write --disk FILE[,format=qcow2]"},
    {" cdrom ", "there is no CD-ROM drive; --disk FILE,readonly is a virtio disk"},
    {" netdev nic ", "write --net user|tap|none"},
    {" device virtfs fsdev chardev object ", "devices are told by --disk, --net, --console, --rng and --vga"},
    {" pflash ", "write --firmware ovmf,vars=FILE"},
    {" nographic curses ", "leave it out: the serial console is this terminal"},
    {" display vnc spice sdl gtk k full-screen ", "there is no window and no VNC; see --vga std, vireo ctl screen and screendump"},
    {" monitor mon qmp-pretty ", "press Ctrl-A c, use vireo ctl, or write --qmp unix:PATH"},
    {" s gdb ", "there is no gdb server"},
    {" S ", "no machine starts stopped; vireo ctl stop stops it"},
    {" snapshot ", "make an overlay and give that to --disk: vireo img create -f qcow2 -b FILE -F FORMAT OVERLAY"},
    {" daemonize pidfile ", "a machine runs in the foreground; vireo ctl finds it by --name"},
    {" boot option-rom ", "firmware boots the first disk; see vireo run --help firmware"},
    {" incoming loadvm only-migratable ", "no machine's state is saved or moved"},
    {" usb usbdevice soundhw audio audiodev watchdog tpmdev ", "there is no such device"},
};
// The same in both, but for the dash.
constexpr char kSame[] = " kernel initrd append cpu accel name qmp serial no-reboot numa net bios vga ";

}  // namespace

std::string instead_of_qemu(const std::string& option) {
  const size_t dashes = option.starts_with("--") ? 2 : option.starts_with("-") ? 1 : 0;
  const std::string name = option.substr(dashes, option.find('=') - dashes), word = " " + name + " ";
  if (!dashes || name.empty()) return {};
  if (dashes == 1 && std::string(kSame).find(word) != std::string::npos) return "write --" + name;
  for (const Habit& habit : kHabits)
    if (std::string(habit.names).find(word) != std::string::npos) return habit.here;
  return {};
}

}  // namespace vireo::cli
