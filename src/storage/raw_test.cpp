// SPDX-License-Identifier: Apache-2.0
#include "storage/raw.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <sys/stat.h>

#include <deque>
#include <optional>
#include <random>

namespace vireo::storage {
namespace {

class TempFile {
 public:
  explicit TempFile(uint64_t size, const char* directory = ".") {
    path = std::string(directory) + "/vireo-raw-test-XXXXXX";
    fd = OwnedFd(mkstemp(path.data()));
    EXPECT_TRUE(fd.valid());
    EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  }
  ~TempFile() { unlink(path.c_str()); }
  std::string get(uint64_t offset, size_t size) {
    std::string out(size, '?');
    ssize_t n = pread(fd.get(), out.data(), size, static_cast<off_t>(offset));
    EXPECT_GE(n, 0);
    out.resize(n);
    return out;
  }
  void put(uint64_t offset, const std::string& text) {
    EXPECT_EQ(pwrite(fd.get(), text.data(), text.size(), static_cast<off_t>(offset)), static_cast<ssize_t>(text.size()));
  }
  uint64_t blocks() {
    struct stat st;
    fstat(fd.get(), &st);
    return st.st_blocks;
  }
  uint64_t size() {
    struct stat st;
    fstat(fd.get(), &st);
    return st.st_size;
  }
  std::string path;
  OwnedFd fd;
};

// Does calls at once, but for what a test makes fail, cut short or come back later.
class FaultyEngine final : public FileEngine {
 public:
  std::function<std::optional<int64_t>(const FileOp&)> fault;  // a result instead of the call
  uint64_t longest = UINT64_MAX;                               // transfers stop there
  unsigned max_writes_at_once = 0, calls = 0;

  const char* name() const override { return "faulty"; }
  void start(const FileOp& op, Done done) override { jobs_.emplace_back(op, std::move(done)); }
  void submit() override {}
  void wait() override {
    auto jobs = std::exchange(jobs_, {});
    unsigned writes = 0;
    for (auto& [op, done] : jobs) writes += op.kind == FileOp::Kind::kWrite;
    max_writes_at_once = std::max(max_writes_at_once, writes);
    for (auto& [op, done] : jobs) done(perform(op));
  }

 private:
  int64_t perform(const FileOp& op) {
    ++calls;
    if (fault)
      if (auto result = fault(op)) return *result;
    if (op.kind == FileOp::Kind::kDataSync) return fdatasync(op.fd);
    if (op.kind == FileOp::Kind::kAllocate) return fallocate(op.fd, op.mode, op.offset, op.length) ? -errno : 0;
    std::vector<iovec> parts;
    uint64_t left = longest;
    for (unsigned i = 0; i < op.part_count && left > 0; ++i) {
      parts.push_back({op.parts[i].iov_base, std::min<uint64_t>(left, op.parts[i].iov_len)});
      left -= parts.back().iov_len;
    }
    ssize_t n = op.kind == FileOp::Kind::kRead ? preadv(op.fd, parts.data(), parts.size(), op.offset)
                                               : pwritev(op.fd, parts.data(), parts.size(), op.offset);
    return n < 0 ? -errno : n;
  }
  std::vector<std::pair<FileOp, Done>> jobs_;
};

iovec part(std::string& s) { return {s.data(), s.size()}; }

int wait(Raw& raw, const std::function<void(Done)>& start) {
  int result = -1;
  start([&](int error) { result = error; });
  EXPECT_EQ(result, -1);  // never inside the call
  raw.drain();
  return result;
}
int read(Raw& raw, uint64_t offset, std::vector<iovec> parts) {
  return wait(raw, [&](Done done) { raw.read(offset, parts, std::move(done)); });
}
int write(Raw& raw, uint64_t offset, std::vector<iovec> parts) {
  return wait(raw, [&](Done done) { raw.write(offset, parts, std::move(done)); });
}

struct Way {
  Aio aio;
  bool direct;
};

class RawTest : public testing::TestWithParam<Way> {
 protected:
  std::unique_ptr<Raw> open(const std::string& path, RawConfig config = {}) {
    config.path = path;
    config.aio = GetParam().aio;
    config.direct = GetParam().direct;
    auto raw = Raw::create(config, *loop);
    if (!raw) {
      missing = raw.error().message;
      if (raw.error().kind == ErrorKind::kUnsupported) return nullptr;
      ADD_FAILURE() << raw.error().message;
      return nullptr;
    }
    return std::move(*raw);
  }
  std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
  std::string missing;
};
#define OPEN(...)                                   \
  ({                                                \
    auto opened_ = open(__VA_ARGS__);               \
    if (!opened_) GTEST_SKIP() << missing;          \
    std::move(opened_);                             \
  })

TEST_P(RawTest, ScattersAndGathers) {
  TempFile file(64 << 10);
  auto raw = OPEN(file.path);
  EXPECT_EQ(raw->size(), 64u << 10);
  std::string a(700, 'a'), b(324, 'b');
  EXPECT_EQ(write(*raw, 512, {part(a), part(b)}), 0);
  EXPECT_EQ(file.get(512, 1024), a + b);
  std::string c(100, '-'), d(924, '-');
  EXPECT_EQ(read(*raw, 512, {part(c), part(d)}), 0);
  EXPECT_EQ(c + d, a + b);
}

TEST_P(RawTest, OutOfBoundsFailsAndTouchesNothing) {
  TempFile file(8192);
  auto raw = OPEN(file.path);
  std::string data(1024, 'x');
  EXPECT_EQ(write(*raw, 8192 - 512, {part(data)}), EIO);
  EXPECT_EQ(read(*raw, ~0ull - 100, {part(data)}), EIO);
  EXPECT_EQ(wait(*raw, [&](Done d) { raw->write_zeroes(4096, 8192, false, std::move(d)); }), EIO);
  EXPECT_EQ(wait(*raw, [&](Done d) { raw->discard(~0ull, 2, std::move(d)); }), EIO);
  EXPECT_EQ(file.get(0, 9000), std::string(8192, 0));
}

TEST_P(RawTest, OddSizeIsPaddedWithZeroesAndDoesNotGrowTheDisk) {
  TempFile file(1000);
  file.put(0, std::string(1000, 'f'));
  auto raw = OPEN(file.path);
  EXPECT_EQ(raw->size(), 1024u);
  std::string data(1024, '?');
  EXPECT_EQ(read(*raw, 0, {part(data)}), 0);
  EXPECT_EQ(data, std::string(1000, 'f') + std::string(24, 0));
  std::string sector(512, 's');
  EXPECT_EQ(write(*raw, 512, {part(sector)}), 0);
  EXPECT_LE(file.size(), 1024u);
  EXPECT_EQ(file.get(0, 1024), std::string(512, 'f') + sector);
}

TEST_P(RawTest, RandomWritesMatchAModel) {
  TempFile file(256 << 10);
  auto raw = OPEN(file.path);
  std::string model(256 << 10, 0);
  std::mt19937 random(7);
  for (int round = 0; round < 60; ++round) {
    struct Io {
      uint64_t offset;
      std::string data;
    };
    std::deque<Io> ios;
    unsigned done = 0;
    uint64_t cursor = 0;
    // Neighbours at once that share blocks but not bytes.
    while (cursor < model.size() - 40000 && ios.size() < 20) {
      uint64_t offset = cursor + random() % 3 * 512, size = (1 + random() % 20) * 512;
      cursor = offset + size;
      unsigned what = random() % 4;
      if (what == 3) {
        std::fill_n(model.begin() + offset, size, 0);
        raw->write_zeroes(offset, size, random() % 2, [&](int error) { EXPECT_EQ(error, 0); ++done; });
        ios.emplace_back();
        continue;
      }
      ios.push_back({offset, std::string(size, static_cast<char>('a' + random() % 26))});
      Io& io = ios.back();
      std::copy(io.data.begin(), io.data.end(), model.begin() + offset);
      size_t cut = random() % io.data.size();
      iovec parts[] = {{io.data.data(), cut}, {io.data.data() + cut, io.data.size() - cut}};
      raw->write(offset, parts, [&](int error) { EXPECT_EQ(error, 0); ++done; });
    }
    raw->drain();
    ASSERT_EQ(done, ios.size());
  }
  EXPECT_EQ(file.get(0, model.size()), model);
  std::string all(model.size(), '?');
  iovec parts[] = {{all.data(), 3333}, {all.data() + 3333, all.size() - 3333}};
  EXPECT_EQ(wait(*raw, [&](Done d) { raw->read(0, parts, std::move(d)); }), 0);
  EXPECT_EQ(all, model);
}

TEST_P(RawTest, CompletionsComeThroughTheLoop) {
  TempFile file(1 << 20);
  auto raw = OPEN(file.path);
  std::vector<std::string> buffers(300, std::string(4096, '?'));
  unsigned done = 0;
  for (auto& buffer : buffers) {
    iovec p = part(buffer);
    raw->read(0, {&p, 1}, [&](int) { ++done; });
  }
  raw->submit();
  while (done < buffers.size()) loop->step(-1);
  EXPECT_EQ(buffers.back(), std::string(4096, 0));
}

TEST_P(RawTest, RequestsMadeInCallbacksRun) {
  TempFile file(1 << 20);
  auto raw = OPEN(file.path);
  alignas(4096) static char buffer[4096];
  iovec p{buffer, sizeof buffer};
  int left = 20;
  std::function<void(int)> again = [&](int) {
    if (--left > 0) raw->write(0, {&p, 1}, [&](int e) { again(e); });
  };
  again(0);
  raw->submit();
  while (left > 0) loop->step(-1);
  EXPECT_EQ(left, 0);
}

TEST_P(RawTest, FlushDiscardAndZeroes) {
  TempFile file(4 << 20);
  file.put(0, std::string(4 << 20, 'd'));
  auto raw = OPEN(file.path);
  EXPECT_EQ(wait(*raw, [&](Done d) { raw->flush(std::move(d)); }), 0);
  uint64_t before = file.blocks();
  EXPECT_EQ(wait(*raw, [&](Done d) { raw->discard(0, 2 << 20, std::move(d)); }), 0);
  EXPECT_TRUE(file.blocks() < before || file.get(0, 1) == "d");
  EXPECT_EQ(wait(*raw, [&](Done d) { raw->write_zeroes(3 << 20, 1000, false, std::move(d)); }), 0);
  EXPECT_EQ(file.get(3 << 20, 1001), std::string(1000, 0) + "d");
  EXPECT_EQ(file.size(), 4u << 20);
}

TEST_P(RawTest, ReadOnlyRefusesWrites) {
  TempFile file(8192);
  auto raw = OPEN(file.path, {.read_only = true});
  std::string data(512, 'x');
  EXPECT_EQ(write(*raw, 0, {part(data)}), EROFS);
  EXPECT_EQ(wait(*raw, [&](Done d) { raw->discard(0, 512, std::move(d)); }), EROFS);
  EXPECT_EQ(wait(*raw, [&](Done d) { raw->flush(std::move(d)); }), 0);
  EXPECT_EQ(read(*raw, 0, {part(data)}), 0);
}

INSTANTIATE_TEST_SUITE_P(Ways, RawTest,
                         testing::Values(Way{Aio::kUring, false}, Way{Aio::kThreads, false}, Way{Aio::kUring, true},
                                         Way{Aio::kThreads, true}),
                         [](const auto& info) {
                           return std::string(info.param.aio == Aio::kUring ? "Uring" : "Threads") +
                                  (info.param.direct ? "Direct" : "");
                         });

struct Faulty {
  TempFile file{1 << 20};
  FaultyEngine* engine = nullptr;
  std::unique_ptr<Raw> raw;
  explicit Faulty(RawConfig config = {}) {
    auto e = std::make_unique<FaultyEngine>();
    engine = e.get();
    config.path = file.path;
    auto made = Raw::create(config, std::move(e));
    if (made) raw = std::move(*made);
  }
};

TEST(RawFaults, ErrorsReachTheCaller) {
  Faulty t;
  t.engine->fault = [](const FileOp&) { return -ENOSPC; };
  std::string data(512, 'x');
  EXPECT_EQ(write(*t.raw, 0, {part(data)}), ENOSPC);
  EXPECT_EQ(read(*t.raw, 0, {part(data)}), ENOSPC);
  EXPECT_EQ(wait(*t.raw, [&](Done d) { t.raw->flush(std::move(d)); }), ENOSPC);
  EXPECT_EQ(wait(*t.raw, [&](Done d) { t.raw->discard(0, 512, std::move(d)); }), ENOSPC);
  t.engine->fault = [](const FileOp&) { return 0; };  // a write that moves nothing
  EXPECT_EQ(write(*t.raw, 0, {part(data)}), EIO);
}

// The kernel tells of what it could not write once, and takes it for clean then.
TEST(RawFaults, AfterAFlushThatFailedNoneSaysThatAllIsWell) {
  for (bool direct : {false, true}) {
    Faulty t({.direct = direct});
    if (!t.raw) continue;
    auto flush = [&] { return wait(*t.raw, [&](Done d) { t.raw->flush(std::move(d)); }); };
    unsigned calls = 0;
    t.engine->fault = [&](const FileOp&) { return ++calls == 1 ? -EINTR : 0; };
    EXPECT_EQ(flush(), 0);
    EXPECT_EQ(calls, 2u);
    t.engine->fault = [](const FileOp&) { return -EIO; };
    EXPECT_EQ(flush(), EIO);
    t.engine->fault = [](const FileOp&) { return 0; };
    EXPECT_EQ(flush(), direct ? 0 : EIO) << "nothing is in the page cache with O_DIRECT";
  }
}

TEST(RawFaults, ShortAndInterruptedTransfersGoOn) {
  for (bool direct : {false, true}) {
    Faulty t({.direct = direct});
    if (!t.raw) continue;
    t.engine->longest = direct ? 4096 : 300;
    unsigned call = 0;
    t.engine->fault = [&](const FileOp&) -> std::optional<int64_t> {
      if (++call % 5 == 0) return call % 2 ? -EINTR : -EAGAIN;
      return std::nullopt;
    };
    std::string out(20000 / 512 * 512, 0), in(out.size(), 0);
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<char>(i * 7);
    EXPECT_EQ(write(*t.raw, 512, {part(out)}), 0);
    EXPECT_EQ(read(*t.raw, 512, {part(in)}), 0);
    EXPECT_EQ(in, out);
  }
}

TEST(RawFaults, ZeroesAreWrittenWhereFallocateIsRefused) {
  for (bool direct : {false, true}) {
    Faulty t({.direct = direct});
    if (!t.raw) continue;
    t.file.put(0, std::string(1 << 20, 'd'));
    t.engine->fault = [](const FileOp& op) -> std::optional<int64_t> {
      if (op.kind == FileOp::Kind::kAllocate) return -EOPNOTSUPP;
      return std::nullopt;
    };
    uint64_t size = 512 * 1001;
    EXPECT_EQ(wait(*t.raw, [&](Done d) { t.raw->write_zeroes(512, size, true, std::move(d)); }), 0);
    EXPECT_EQ(t.file.get(0, 1 << 20), std::string(512, 'd') + std::string(size, 0) + std::string((1 << 20) - 512 - size, 'd'));
    unsigned calls = t.engine->calls;
    EXPECT_EQ(wait(*t.raw, [&](Done d) { t.raw->discard(0, 4096, std::move(d)); }), 0);
    EXPECT_EQ(t.engine->calls, calls);  // remembered
  }
}

TEST(RawFaults, PartialBlockWritesExcludeOtherWrites) {
  Faulty t({.direct = true});
  if (!t.raw) GTEST_SKIP() << "its file system has no O_DIRECT";
  std::vector<std::string> data;
  for (int i = 0; i < 8; ++i) data.emplace_back(512, static_cast<char>('0' + i));
  unsigned done = 0;
  for (int i = 0; i < 8; ++i) {
    iovec p = part(data[i]);
    t.raw->write(512 * i, {&p, 1}, [&](int error) { EXPECT_EQ(error, 0); ++done; });
  }
  t.raw->drain();
  EXPECT_EQ(done, 8u);
  std::string expected;
  for (auto& d : data) expected += d;
  EXPECT_EQ(t.file.get(0, 4096), expected);
}

TEST(RawLock, OneWriterOrManyReaders) {
  auto loop = std::move(*EventLoop::create());
  TempFile file(8192);
  auto open = [&](bool read_only) {
    return Raw::create({.path = file.path, .read_only = read_only, .aio = Aio::kThreads}, *loop);
  };
  {
    auto reader = open(true), reader2 = open(true);
    EXPECT_TRUE(reader && reader2);
    auto writer = open(false);
    ASSERT_FALSE(writer);
    EXPECT_EQ(writer.error().kind, ErrorKind::kBusy);
    EXPECT_NE(writer.error().message.find(file.path), std::string::npos);
    EXPECT_NE(writer.error().message.find("in use"), std::string::npos);
  }
  auto writer = open(false);
  EXPECT_TRUE(writer);
  auto second = open(false), reader = open(true);
  ASSERT_FALSE(second);
  ASSERT_FALSE(reader);
  EXPECT_NE(second.error().message.find("in use"), std::string::npos);
  auto unlocked = Raw::create({.path = file.path, .lock = false, .aio = Aio::kThreads}, *loop);
  EXPECT_TRUE(unlocked);
}

// As a killed program's descriptors are, for which its parent does not wait (base/busy_file.h).
TEST(RawLock, WhatIsGivenBackSoonIsWaitedFor) {
  auto loop = std::move(*EventLoop::create());
  TempFile file(8192);
  int held = ::open(file.path.c_str(), O_RDWR | O_CLOEXEC);
  struct flock lock {};
  lock.l_type = F_WRLCK, lock.l_whence = SEEK_SET, lock.l_start = 100, lock.l_len = 200;
  ASSERT_EQ(::fcntl(held, F_OFD_SETLK, &lock), 0);
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ::close(held);
  });
  EXPECT_TRUE(Raw::create({.path = file.path, .aio = Aio::kThreads}, *loop));
  other.join();
}

TEST(RawOpen, MistakesAreNamed) {
  auto loop = std::move(*EventLoop::create());
  auto missing = Raw::create({.path = "/nonexistent/image"}, *loop);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, "disk '/nonexistent/image': No such file or directory");
  auto directory = Raw::create({.path = "/tmp", .read_only = true}, *loop);
  ASSERT_FALSE(directory);
  EXPECT_EQ(directory.error().message, "disk '/tmp': neither a regular file nor a block device");
}

TEST(RawOpen, AFifoIsRefusedAtOnce) {
  auto loop = std::move(*EventLoop::create());
  const std::string path = "vireo-raw-fifo-" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  auto disk = Raw::create({.path = path, .read_only = true}, *loop);
  unlink(path.c_str());
  ASSERT_FALSE(disk);
  EXPECT_EQ(disk.error().message, "disk '" + path + "': neither a regular file nor a block device");
}

TEST(FileEngine, AutoAlwaysFindsOne) {
  auto loop = std::move(*EventLoop::create());
  EXPECT_TRUE(create_engine(Aio::kAuto, *loop));
}

}  // namespace
}  // namespace vireo::storage
