// SPDX-License-Identifier: Apache-2.0
#include "cli/options.h"

#include <gtest/gtest.h>

#include <fstream>

namespace vireo::cli {
namespace {

Result<std::optional<RunOptions>> parse(std::vector<std::string> words) {
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return parse_run(static_cast<int>(argv.size()), argv.data());
}

std::string error_of(std::vector<std::string> words) {
  auto result = parse(std::move(words));
  return result ? "" : result.error().message;
}

TEST(Options, SizesTakeLettersAndDefaultToMiB) {
  EXPECT_EQ(*parse_size("512M", "x"), 512ull << 20);
  EXPECT_EQ(*parse_size("2g", "x"), 2ull << 30);
  EXPECT_EQ(*parse_size("64", "x"), 64ull << 20);
  for (const char* bad : {"", "M", "0", "-1", "1X", "1.5G", "99999999999999999999", "99999999T"}) EXPECT_FALSE(parse_size(bad, "x")) << bad;
}

TEST(Options, DoubledCommasAreCommas) {
  auto disk = parse_disk("a,,b.img,readonly,serial=x");
  ASSERT_TRUE(disk);
  EXPECT_EQ(disk->path, "a,b.img");
  EXPECT_TRUE(disk->readonly);
  EXPECT_EQ(disk->serial, "x");
}

TEST(Options, CpuListsHaveRanges) {
  EXPECT_EQ(*parse_cpu_list("0-2,5", "x"), (std::vector<int>{0, 1, 2, 5}));
  for (const char* bad : {"", "a", "3-1", "1,", "9999"}) EXPECT_FALSE(parse_cpu_list(bad, "x")) << bad;
}

TEST(Options, ForwardsNameBothPorts) {
  auto net = parse_net("user,forward=tcp:127.0.0.1:2222:22,forward=udp:53:53");
  ASSERT_TRUE(net);
  ASSERT_EQ(net->forwards.size(), 2u);
  EXPECT_EQ(net->forwards[0].host_address, "127.0.0.1");
  EXPECT_EQ(net->forwards[0].host_port, 2222);
  EXPECT_EQ(net->forwards[0].guest_port, 22);
  EXPECT_TRUE(net->forwards[1].udp);
  EXPECT_FALSE(parse_net("user,forward=22"));
  EXPECT_FALSE(parse_net("user,forward=tcp:1:99999"));
}

TEST(Options, WhatQemuCallsItIsToldWhatItIsHere) {
  EXPECT_EQ(error_of({"-m", "1G", "--cpus", "2"}), "unknown option: -m; write --memory SIZE (see vireo run --help)");
  EXPECT_EQ(error_of({"--smp=2"}), "unknown option: --smp=2; write --cpus N (see vireo run --help)");
  EXPECT_EQ(error_of({"-kernel", "vmlinuz"}), "unknown option: -kernel; write --kernel (see vireo run --help)");
  EXPECT_NE(error_of({"-drive", "file=a.img,if=virtio"}).find("--disk FILE"), std::string::npos);
  EXPECT_EQ(error_of({"--frobnicate", "x"}), "unknown option: --frobnicate (see vireo run --help)");
  EXPECT_EQ(error_of({"a.img", "b.img"}), "unknown word: a.img (see vireo run --help)");
}

TEST(Options, ValuesAreThereAndThereOnce) {
  EXPECT_EQ(error_of({"--memory"}), "--memory: a value is missing (see vireo run --help)");
  EXPECT_EQ(error_of({"--memory", "1G", "--memory", "2G"}), "--memory: given more than once (see vireo run --help)");
  for (const char* option : {"--name", "--serial", "--config", "--cpu-affinity"}) EXPECT_EQ(error_of({std::string(option) + "="}), std::string(option) + ": is empty");
}

TEST(Options, MemoryWordsReachTheConfig) {
  auto memory = parse_memory("1G,hugetlb=2M,prealloc,numa=1");
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->backing, MemoryConfig::Backing::kHugetlb);
  EXPECT_EQ(memory->huge_page_size, 2u << 20);
  EXPECT_TRUE(memory->prealloc);
  EXPECT_EQ(memory->numa_node, 1);
  EXPECT_EQ(parse_memory("1G,file=/x")->path, "/x");
  EXPECT_FALSE(parse_memory("1G,colour=red"));
}

TEST(Options, NumaNodesNameCpusAndMemory) {
  auto node = parse_numa("cpus=0-1,cpus=4,memory=1G");
  ASSERT_TRUE(node) << node.error().message;
  EXPECT_EQ(node->cpus, (std::vector<unsigned>{0, 1, 4}));
  EXPECT_EQ(node->memory, 1ull << 30);
  for (const char* bad : {"", "cpus=x", "memory=0", "colour=red", "cpus=0,,memory=1G"}) EXPECT_FALSE(parse_numa(bad)) << bad;
}

TEST(Options, ErrorsNameOptionAndValue) {
  EXPECT_NE(error_of({"--frobnicate"}).find("--frobnicate"), std::string::npos);
  EXPECT_NE(error_of({"--kernel", "k", "--cpus", "0"}).find("--cpus 0"), std::string::npos);
  EXPECT_NE(error_of({"--kernel", "k", "--accel", "warp"}).find("--accel warp"), std::string::npos);
  EXPECT_NE(error_of({"--kernel", "k", "stray"}).find("stray"), std::string::npos);
  EXPECT_NE(error_of({"--initrd", "i"}).find("--kernel is missing"), std::string::npos);
  EXPECT_NE(error_of({"--board", "microvm"}).find("--kernel is missing"), std::string::npos);
}

TEST(Options, FirmwareIsAFileOrAWordWithItsPlaces) {
  auto file = parse_firmware("/rom.fd,vars=/dev/null,menu,sercon=off,debug=/d");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->code, "/rom.fd");
  EXPECT_EQ(file->variables, "/dev/null");
  EXPECT_EQ(file->debug, "/d");
  EXPECT_TRUE(file->boot_menu);
  EXPECT_FALSE(file->serial_console);
  EXPECT_EQ(parse_firmware("code=/rom.fd")->code, "/rom.fd");
  EXPECT_FALSE(parse_firmware("/rom.fd")->secure);
  EXPECT_TRUE(parse_firmware("/rom.fd,secure=on,vars=/dev/null")->secure);
  EXPECT_TRUE(parse_firmware("/rom.fd,secure,vars=/dev/null")->secure);
  for (const char* bad : {"", "/rom.fd,colour=red", "/rom.fd,vars=/nowhere/v", "/rom.fd,vars=", "/rom.fd,secure=maybe", "seabios,secure=on", "/rom.fd,secure=on"}) EXPECT_FALSE(parse_firmware(bad)) << bad;
  EXPECT_NE(error_of({"--kernel", "k", "--firmware", "seabios"}).find("--kernel k"), std::string::npos);
  EXPECT_NE(error_of({"--kernel", "k", "--firmware", "/rom.fd", "--boot-protocol", "pvh"}).find("--boot-protocol pvh"), std::string::npos);
  auto both = parse({"--kernel", "k", "--firmware", "/rom.fd"});
  ASSERT_TRUE(both) << both.error().message;
  EXPECT_EQ((*both)->machine.boot.kernel, "k");
  EXPECT_TRUE((*both)->machine.firmware);
}

TEST(Options, ANetworkToBootFrom) {
  auto net = parse_net("user,tftp=/srv/tftp,bootfile=pxelinux.0,rom=/r.rom");
  ASSERT_TRUE(net) << net.error().message;
  EXPECT_EQ(net->tftp, "/srv/tftp");
  EXPECT_EQ(net->boot_file, "pxelinux.0");
  EXPECT_EQ(net->rom, "/r.rom");
  EXPECT_EQ(parse_net("tap,ifname=t0,rom=/r.rom")->rom, "/r.rom");
  const std::string long_name(128, 'x');
  for (const std::string& bad : {std::string("user,tftp="), std::string("user,rom="), "user,bootfile=" + long_name, std::string("tap,ifname=t0,tftp=/srv"), std::string("none,rom=/r.rom")})
    EXPECT_FALSE(parse_net(bad)) << bad;
}

TEST(Options, AnEmptyWordIsNotTheDefault) {
  for (const char* option : {"--kernel=", "--initrd=", "--memory=", "--cpus=", "--board=", "--accel=", "--boot-protocol="}) {
    const std::string name(option, strlen(option) - 1);
    EXPECT_EQ(error_of({"--disk", "d", option}), name + ": is empty");
  }
  EXPECT_TRUE(parse({"--kernel", "k", "--append", ""}));
}

TEST(Options, WithoutAKernelSeabiosIsTakenWhereItIs) {
  auto run = parse({"--disk", "d"});
  if (!find_seabios()) {
    EXPECT_FALSE(run);
    return;
  }
  ASSERT_TRUE(run) << run.error().message;
  ASSERT_TRUE((*run)->machine.firmware);
  EXPECT_EQ((*run)->machine.firmware->code, *find_seabios());
  EXPECT_FALSE((*parse({"--kernel", "k"}))->machine.firmware);
}

TEST(Options, NamesForPerfNeedSomewhereToGo) {
  auto run = parse({"--kernel", "k", "--perf-map", "--jitdump", "/j", "--guest-symbols", "/s"});
  ASSERT_TRUE(run) << run.error().message;
  EXPECT_TRUE((*run)->code_names.perf_map);
  EXPECT_EQ((*run)->code_names.jitdump_folder, "/j");
  EXPECT_EQ((*run)->code_names.symbols, "/s");
  EXPECT_FALSE((*parse({"--kernel", "k"}))->code_names.any());
  EXPECT_NE(error_of({"--kernel", "k", "--guest-symbols", "/s"}).find("neither"), std::string::npos);
  EXPECT_NE(error_of({"--kernel", "k", "--jitdump", ""}).find("--jitdump"), std::string::npos);
}

TEST(Options, TheCodeCacheIsAFolderWithABound) {
  EXPECT_TRUE((*parse({"--kernel", "k"}))->code_folder.path.empty());
  auto run = parse({"--kernel", "k", "--code-cache", "/c"});
  ASSERT_TRUE(run) << run.error().message;
  EXPECT_EQ((*run)->code_folder.path, "/c");
  EXPECT_EQ((*run)->code_folder.most, 256u << 20);
  EXPECT_EQ((*parse({"--kernel", "k", "--code-cache", "/c,,d,size=64M"}))->code_folder.path, "/c,d");
  EXPECT_EQ((*parse({"--kernel", "k", "--code-cache", "/c,size=64M"}))->code_folder.most, 64u << 20);
  for (const char* wrong : {"", ",size=64M", "/c,size=10K", "/c,size=much", "/c,limit=64M"})
    EXPECT_NE(error_of({"--kernel", "k", "--code-cache", wrong}).find("--code-cache"), std::string::npos) << wrong;
}

TEST(Options, TheCommandLineWinsOverTheFile) {
  char path[] = "/tmp/vireo-config-XXXXXX";
  int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  close(fd);
  std::ofstream(path) << "# a machine\nkernel = /k\nmemory = 1G\ncpus = 4\nappend = console=ttyS0 a=b\nrng = on\ndisk = a.img\ndisk = b.img,readonly\n";
  auto run = parse({"--config", path, "--cpus", "2"});
  ASSERT_TRUE(run) << run.error().message;
  EXPECT_EQ((*run)->machine.cpus, 2u);
  EXPECT_EQ((*run)->machine.memory.size, 1ull << 30);
  EXPECT_EQ((*run)->machine.boot.append, "console=ttyS0 a=b");
  EXPECT_TRUE((*run)->rng);
  EXPECT_EQ((*run)->disks.size(), 2u);
  std::ofstream(path) << "kernel = /k\ncolour = red\n";
  EXPECT_NE(error_of({"--config", path}).find("colour"), std::string::npos);
  unlink(path);
}

TEST(Options, AnEmptyValueIsOneAndTakesNoOther) {
  EXPECT_EQ((*parse({"--append=", "--kernel", "k"}))->machine.boot.append, "");
  EXPECT_EQ((*parse({"--append=", "--kernel", "k"}))->machine.boot.kernel, "k");
  EXPECT_NE(error_of({"--kernel", "k", "--disk="}), "");
  EXPECT_NE(error_of({"--kernel", "k", "--jitdump=", "/j"}), "");
  // What stands for another option's value is that.
  EXPECT_EQ((*parse({"--kernel", "k", "--append", "--kernel="}))->machine.boot.append, "--kernel=");
  EXPECT_EQ((*parse({"--kernel", "k", "--append=a="}))->machine.boot.append, "a=");
  EXPECT_EQ(*(*parse({"--debug-exit=", "--kernel", "k"}))->machine.debug_exit, 0xf4);

  char path[] = "/tmp/vireo-config-XXXXXX";
  int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  close(fd);
  std::ofstream(path) << "kernel = k\nappend =\nboard = foo\n";
  EXPECT_NE(error_of({"--config", path}).find("--board foo"), std::string::npos);
  unlink(path);
}

TEST(Options, TheCommandLineWinsByAnyOfAnOptionsNames) {
  char path[] = "/tmp/vireo-config-XXXXXX";
  int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  close(fd);
  std::ofstream(path) << "bios = /file.fd\n";
  for (const char* option : {"--firmware", "--bios"}) {
    auto run = parse({"--config", path, option, "/line.fd"});
    ASSERT_TRUE(run) << run.error().message;
    EXPECT_EQ((*run)->machine.firmware->code, "/line.fd");
  }
  unlink(path);
}

TEST(Options, VhostUserDiskIsASocketAndQueues) {
  auto disk = parse_disk("vhost-user=/run/x.sock,queues=4");
  ASSERT_TRUE(disk) << disk.error().message;
  EXPECT_TRUE(disk->vhost_user);
  EXPECT_EQ(disk->path, "/run/x.sock");
  EXPECT_EQ(disk->queues, 4u);
  EXPECT_FALSE(parse_disk("vhost-user=/run/x.sock,cache=none"));
  EXPECT_FALSE(parse_disk("vhost-user="));
  EXPECT_FALSE(parse_disk("plain.img")->vhost_user);
}

TEST(Options, VgaIsStdOrNone) {
  EXPECT_FALSE(parse_vga("none")->has_value());
  auto vga = parse_vga("std,rom=/tmp/bios.bin");
  ASSERT_TRUE(vga);
  EXPECT_EQ((*vga)->rom, "/tmp/bios.bin");
  EXPECT_EQ((*parse_vga("std,rom="))->rom, "");
  for (const char* bad : {"", "cirrus", "standard", "std,size=1", "none,rom=x"}) EXPECT_FALSE(parse_vga(bad)) << bad;
}

}  // namespace
}  // namespace vireo::cli
