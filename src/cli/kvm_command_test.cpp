// SPDX-License-Identifier: Apache-2.0
// What `vireo kvm` refuses, rather than run a program without softkvm. In processes of their own: what is not refused is run.
#include "cli/kvm_command.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace vireo::cli {
namespace {

class KvmCommand : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "vireo-kvm-test-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    write("library.so");
    write("with space.so");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text = "x") {
    std::ofstream(folder_ + "/" + name) << text;
    chmod((folder_ + "/" + name).c_str(), 0755);
  }
  // Its message goes to stderr, for EXPECT_EXIT; a program that runs has an exit status of its own.
  [[noreturn]] void refuse(const std::string& library, std::string program) {
    if (chdir(folder_.c_str())) _exit(1);
    setenv("VIREO_KVM_LIBRARY", library.c_str(), 1);
    char* argv[] = {program.data(), nullptr};
    auto result = run_with_softkvm(1, argv);
    fprintf(stderr, "%s\n", result.error().message.c_str());
    _exit(42);
  }
  std::string folder_;
};

TEST_F(KvmCommand, APathThatLdPreloadWouldPartIsRefused) {
  EXPECT_EXIT(refuse(folder_ + "/with space.so", "true"), testing::ExitedWithCode(42), "with space.so: LD_PRELOAD takes no path");
  EXPECT_EXIT(refuse("with space.so", "true"), testing::ExitedWithCode(42), "/with space.so: LD_PRELOAD takes no path");
}

TEST_F(KvmCommand, ANameWithoutAFolderIsOfTheOneWeAreIn) {
  write("show", "#!/bin/sh\n[ \"$LD_PRELOAD\" = \"" + folder_ + "/library.so\" ] && exit 43\n");
  setenv("LD_PRELOAD", "", 1);
  EXPECT_EXIT(refuse("library.so", "./show"), testing::ExitedWithCode(43), "");
  unsetenv("LD_PRELOAD");
}

TEST_F(KvmCommand, AnEmptyElementOfPathIsTheFolderWeAreIn) {
  write("vireo-test-32", std::string("\x7f""ELF\1\1\1", 7) + std::string(100, '\0'));
  const std::string path = getenv("PATH");
  setenv("PATH", ("/nowhere::" + path).c_str(), 1);
  EXPECT_EXIT(refuse("library.so", "vireo-test-32"), testing::ExitedWithCode(42), "^./vireo-test-32: is no 64-bit");
  setenv("PATH", path.c_str(), 1);
}

TEST_F(KvmCommand, AProgramWithRightsOfItsOwnIsRefused) {
  const std::string program = folder_ + "/true";
  std::filesystem::copy_file(std::filesystem::canonical("/bin/true"), program);
  if (chown(program.c_str(), 65534, 65534)) GTEST_SKIP() << "only root can give a file away";
  chmod(program.c_str(), 04755);
  EXPECT_EXIT(refuse("library.so", program), testing::ExitedWithCode(42), "rights of its own .set-user-ID");
  chmod(program.c_str(), 02755);
  EXPECT_EXIT(refuse("library.so", program), testing::ExitedWithCode(42), "rights of its own .set-group-ID");
  chmod(program.c_str(), 02745);
  EXPECT_EXIT(refuse("library.so", program), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace vireo::cli
