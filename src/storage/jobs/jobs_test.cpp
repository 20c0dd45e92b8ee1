// SPDX-License-Identifier: Apache-2.0
// Jobs under a guest that writes: random requests against a shadow of the disk while each job runs, then what the job made is compared with
// what it should be, and every image is checked.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <random>

#include "storage/file/fault_file.h"
#include "storage/file/filter_file.h"
#include "storage/image/filter_image.h"
#include "storage/jobs/disk_graph.h"
#include "storage/qcow2/check.h"
#include "storage/qcow2/create.h"

namespace vireo::storage {
namespace {

constexpr uint64_t kUnit = 4096, kSize = 16 << 20, kUnits = kSize / kUnit;
using Shadow = std::vector<uint8_t>;

class Events final : public JobListener {
 public:
  void status_changed(const JobState& state) override { add(std::string("status ") + word(state.status)); }
  void ready(const JobState&) override { add("ready"); }
  void ended(const JobState& state) override {
    add(state.cancelled ? "cancelled" : "completed");
    std::lock_guard lock(mutex_);
    error_ = state.error;
    ended_ = true;
    changed_.notify_all();
  }
  void error(const JobState& state, const char* operation, const char* action) override { add(std::string("error ") + operation + " " + action); }
  void pending(const JobState&) override { add("pending"); }

  // Until it is said; false: not within a minute.
  bool wait(const std::string& what) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return std::ranges::find(said_, what) != said_.end(); });
  }
  std::string wait_end() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(60), [&] { return ended_ && !said_.empty() && said_.back() == "status null"; })) return "it does not end";
    return error_;
  }
  std::vector<std::string> take() {
    std::lock_guard lock(mutex_);
    ended_ = false;
    return std::exchange(said_, {});
  }

 private:
  void add(std::string what) {
    std::lock_guard lock(mutex_);
    said_.push_back(std::move(what));
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> said_;
  std::string error_;
  bool ended_ = false;
};

// Writes, zeroes, discards and reads at random, a few at a time, and keeps the shadow.
class Guest {
 public:
  Guest(LiveDisk& disk, Shadow shadow, unsigned seed) : disk_(disk), shadow_(std::move(shadow)), random_(seed) {
    thread_ = std::thread([this] {
      while (!end_) {
        {
          std::lock_guard lock(between_);
          round();
        }
        std::this_thread::yield();
      }
    });
  }
  ~Guest() { stop(); }
  void stop() {
    end_ = true;
    if (thread_.joinable()) thread_.join();
  }
  // With the guest standing between two rounds.
  template <class Call>
  void still(Call&& call) {
    std::lock_guard lock(between_);
    call(shadow_);
  }
  Shadow shadow() {
    std::lock_guard lock(between_);
    return shadow_;
  }
  unsigned rounds() const { return rounds_; }
  bool wrong() const { return wrong_; }

 private:
  void round() {
    std::vector<std::vector<std::byte>> buffers;
    buffers.reserve(16);
    struct Read {
      uint64_t at, count;
      size_t buffer;
    };
    std::vector<Read> reads;
    std::mutex mutex;
    std::condition_variable all;
    unsigned left = 1;
    auto done = [&](int error) {
      std::lock_guard lock(mutex);
      if (error) wrong_ = true;
      if (--left == 0) all.notify_all();
    };
    disk_.loop().call([&] {
      uint64_t at = random_() % kUnits;
      for (int i = 0; i < 8 && at < kUnits; ++i) {
        const uint64_t count = std::min<uint64_t>(1 + random_() % (random_() % 4 ? 4 : 64), kUnits - at);
        {
          std::lock_guard lock(mutex);
          ++left;
        }
        const unsigned what = random_() % 10;
        if (what < 5) {
          const auto value = static_cast<uint8_t>(1 + random_() % 255);
          buffers.emplace_back(count * kUnit, static_cast<std::byte>(value));
          std::fill_n(shadow_.begin() + static_cast<long>(at), count, value);
          const iovec one = part(buffers.back().data(), buffers.back().size());
          disk_.write(at * kUnit, {&one, 1}, done);
        } else if (what == 5) {
          std::fill_n(shadow_.begin() + static_cast<long>(at), count, 0);
          disk_.write_zeroes(at * kUnit, count * kUnit, random_() % 2, done);
        } else if (what == 6) {
          disk_.flush(done);
        } else {
          buffers.emplace_back(count * kUnit);
          reads.push_back({at, count, buffers.size() - 1});
          const iovec one = part(buffers.back().data(), buffers.back().size());
          disk_.read(at * kUnit, {&one, 1}, done);
        }
        at += count + random_() % 200;
      }
      disk_.submit();
    });
    std::unique_lock lock(mutex);
    --left;
    all.wait(lock, [&] { return left == 0; });
    // Requests of one round touch different units, so what was read is what was there.
    for (const Read& read : reads)
      for (uint64_t u = 0; u < read.count; ++u)
        if (static_cast<uint8_t>(buffers[read.buffer][u * kUnit + 9]) != shadow_[read.at + u]) wrong_ = true;
    ++rounds_;
  }

  LiveDisk& disk_;
  Shadow shadow_;
  std::mt19937 random_;
  std::mutex between_;
  std::atomic<bool> end_ = false, wrong_ = false;
  std::atomic<unsigned> rounds_ = 0;
  std::thread thread_;
};

// Writes fail from some moment on.
class Failing final : public FilterImage {
 public:
  using FilterImage::FilterImage;
  using Image::write;
  const char* format() const override { return "raw"; }
  Result<> write(uint64_t offset, std::span<const iovec> from) override {
    if (left_ > 0 && --left_ == 0) broken_ = true;
    if (broken_) return fail(ErrorKind::kIo, "no space", ENOSPC);
    return FilterImage::write(offset, from);
  }
  std::atomic<int> left_ = 20;
  std::atomic<bool> broken_ = false;
};

class JobsTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "vireo-jobs-test-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    loop_ = std::move(*EventLoop::create());
  }
  void TearDown() override {
    finish();
    std::filesystem::remove_all(folder_);
  }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  // A disk with a pattern on it, in a file of that format.
  Shadow make(const std::string& name, const std::string& format, unsigned seed = 1) {
    auto image = make_image({.path = path(name), .format = format, .size = kSize}, {});
    EXPECT_TRUE(image) << image.error().message;
    Shadow shadow(kUnits);
    std::mt19937 random(seed);
    for (uint64_t at = 0; at < kUnits; at += 1 + random() % 40) {
      const uint64_t count = std::min<uint64_t>(1 + random() % 60, kUnits - at);
      const auto value = static_cast<uint8_t>(random());
      std::vector<std::byte> data(count * kUnit, static_cast<std::byte>(value));
      EXPECT_TRUE((*image)->write(at * kUnit, std::span<const std::byte>(data)));
      std::fill_n(shadow.begin() + static_cast<long>(at), count, value);
      at += count;
    }
    EXPECT_TRUE((*image)->close());
    return shadow;
  }
  void begin(const std::string& name, const std::string& format, std::function<std::unique_ptr<File>(std::unique_ptr<File>)> wrap = {}) {
    LiveDisk::Config config{.id = "disk0", .path = path(name)};
    config.open.wrap = wrap;
    Result<std::unique_ptr<LiveDisk>> disk;
    if (format == "raw" && !wrap) {
      auto raw = Raw::create({.path = path(name)}, *loop_);
      ASSERT_TRUE(raw);
      disk = LiveDisk::create(std::move(config), std::move(*raw), *loop_);
    } else {
      OpenOptions options;
      options.format = format;
      options.read_only = false;
      options.wrap = wrap;
      auto image = open_image(path(name), std::move(options));
      ASSERT_TRUE(image) << image.error().message;
      disk = LiveDisk::create(std::move(config), std::move(*image), *loop_);
    }
    ASSERT_TRUE(disk) << disk.error().message;
    disk_ = std::move(*disk);
    graph_ = std::make_unique<DiskGraph>(events_);
    graph_->add(*disk_);
    thread_ = std::thread([this] { loop_->run(); });
  }
  void finish() {
    if (graph_) graph_->jobs().cancel_all();
    if (thread_.joinable()) {
      loop_->stop();
      thread_.join();
    }
    graph_.reset();
    disk_.reset();
  }
  template <class Call>
  auto with_graph(Call&& call) {
    std::lock_guard lock(graph_->mutex());
    return call(*graph_);
  }
  Result<> snapshot(const std::string& file) {
    return with_graph([&](DiskGraph& g) -> Result<> {
      std::vector<Step> steps;
      steps.push_back(TRY(g.snapshot({.device = "disk0", .file = path(file)})));
      return g.carry_out(std::move(steps));
    });
  }
  Result<> backup(DiskGraph::BackupWish wish) {
    return with_graph([&](DiskGraph& g) -> Result<> {
      std::vector<Step> steps;
      steps.push_back(TRY(g.backup(std::move(wish))));
      return g.carry_out(std::move(steps));
    });
  }
  // What the image shows with its chain, as our own code reads it after everything was closed.
  void expect_contents(const std::string& name, const std::string& format, const Shadow& shadow) {
    OpenOptions options;
    options.format = format;
    auto image = open_image(path(name), std::move(options));
    ASSERT_TRUE(image) << image.error().message;
    ASSERT_EQ((*image)->size(), kSize);
    std::vector<std::byte> data(kSize);
    ASSERT_TRUE((*image)->read(0, std::span<std::byte>(data)));
    for (uint64_t at = 0; at < kSize; at += 512) ASSERT_EQ(static_cast<uint8_t>(data[at]), shadow[at / kUnit]) << name << " at unit " << at / kUnit;
  }
  void expect_clean(const std::string& name, bool leaks = false) {
    auto file = open_file({.path = path(name), .read_only = true});
    ASSERT_TRUE(file);
    auto checked = qcow2::check(**file, qcow2::Repair::kNone, [&](const std::string& line) {
      if (!leaks) ADD_FAILURE() << name << ": " << line;
    });
    ASSERT_TRUE(checked) << checked.error().message;
    EXPECT_EQ(checked->corruptions, 0u);
  }
  std::string backing_of(const std::string& name) {
    auto file = open_file({.path = path(name), .read_only = true, .lock = false});
    auto header = qcow2::Header::read(**file);
    return header ? header->backing_file : "?";
  }

  std::string folder_;
  std::unique_ptr<EventLoop> loop_;
  Events events_;
  std::unique_ptr<LiveDisk> disk_;
  std::unique_ptr<DiskGraph> graph_;
  std::thread thread_;
};

Job::Config job(uint64_t speed = 0) { return {.id = "job", .disk = {}, .speed = speed}; }

// Until the guest has done so much beside the job.
void let_it_run(Guest& guest, unsigned rounds) {
  for (const unsigned until = guest.rounds() + rounds; guest.rounds() < until && !guest.wrong();) usleep(1000);
}

TEST_P(JobsTest, SnapshotThenStreamThenOneFileHasEverything) {
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam());
  Guest guest(*disk_, shadow, 2);
  let_it_run(guest, 20);
  for (const char* overlay : {"a.qcow2", "b.qcow2", "c.qcow2"}) {
    auto made = snapshot(overlay);
    ASSERT_TRUE(made) << made.error().message;
    let_it_run(guest, 20);
  }
  auto started = with_graph([&](DiskGraph& g) { return g.stream({.device = "disk0", .base_file = path("a.qcow2"), .job = job(20 << 20)}); });
  ASSERT_TRUE(started) << started.error().message;
  EXPECT_EQ(events_.wait_end(), "");
  EXPECT_EQ(layers(disk_->live()->top()).size(), 3u);
  EXPECT_EQ(backing_of("c.qcow2"), path("a.qcow2"));
  events_.take();
  started = with_graph([&](DiskGraph& g) { return g.stream({.device = "disk0", .job = job(20 << 20)}); });
  ASSERT_TRUE(started) << started.error().message;
  let_it_run(guest, 20);
  EXPECT_EQ(events_.wait_end(), "");
  EXPECT_EQ(layers(disk_->live()->top()).size(), 1u);
  let_it_run(guest, 20);
  guest.stop();
  EXPECT_FALSE(guest.wrong());
  finish();
  EXPECT_EQ(backing_of("c.qcow2"), "");
  expect_contents("c.qcow2", "qcow2", guest.shadow());
  for (const char* overlay : {"a.qcow2", "b.qcow2", "c.qcow2"}) expect_clean(overlay);
}

TEST_P(JobsTest, CommitOfTheMiddleAndThenOfTheTopGoesBackToTheBase) {
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam());
  Guest guest(*disk_, shadow, 3);
  for (const char* overlay : {"a.qcow2", "b.qcow2", "c.qcow2"}) {
    auto made = snapshot(overlay);
    ASSERT_TRUE(made) << made.error().message;
    let_it_run(guest, 30);
  }
  auto started = with_graph([&](DiskGraph& g) { return g.commit({.device = "disk0", .base_file = path("a.qcow2"), .top_file = path("b.qcow2"), .job = job(20 << 20)}); });
  ASSERT_TRUE(started) << started.error().message;
  let_it_run(guest, 10);
  EXPECT_EQ(events_.wait_end(), "");
  EXPECT_EQ(backing_of("c.qcow2"), path("a.qcow2"));
  EXPECT_EQ(layers(disk_->live()->top()).size(), 3u);
  events_.take();
  started = with_graph([&](DiskGraph& g) { return g.commit({.device = "disk0", .job = job()}); });
  ASSERT_TRUE(started) << started.error().message;
  ASSERT_TRUE(events_.wait("ready"));
  let_it_run(guest, 20);
  ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.jobs().find("job")->complete(); }));
  EXPECT_EQ(events_.wait_end(), "");
  EXPECT_EQ(events_.take(), (std::vector<std::string>{"status created", "status running", "status ready", "ready", "status waiting", "status pending", "completed", "status concluded", "status null"}));
  EXPECT_EQ(layers(disk_->live()->top()).size(), 1u);
  let_it_run(guest, 20);
  guest.stop();
  EXPECT_FALSE(guest.wrong());
  finish();
  expect_contents("base", GetParam(), guest.shadow());
  for (const char* overlay : {"a.qcow2", "b.qcow2", "c.qcow2"}) expect_clean(overlay);
}

TEST_P(JobsTest, MirrorFollowsTheGuestAndTakesOver) {
  for (bool blocking : {false, true}) {
    SCOPED_TRACE(blocking ? "write-blocking" : "background");
    const Shadow shadow = make("base", GetParam());
    begin("base", GetParam());
    Guest guest(*disk_, shadow, 4);
    DiskGraph::MirrorWish wish{.device = "disk0", .target = {.file = path("copy"), .format = "qcow2"}, .write_blocking = blocking, .job = job()};
    auto started = with_graph([&](DiskGraph& g) { return g.mirror(wish); });
    ASSERT_TRUE(started) << started.error().message;
    ASSERT_TRUE(events_.wait("ready"));
    let_it_run(guest, 40);
    ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.jobs().find("job")->complete(); }));
    EXPECT_EQ(events_.wait_end(), "");
    const Shadow at_switch = guest.shadow();
    let_it_run(guest, 20);
    guest.stop();
    EXPECT_FALSE(guest.wrong());
    finish();
    expect_contents("copy", "qcow2", guest.shadow());
    expect_clean("copy");
    events_.take();
  }
}

TEST_P(JobsTest, MirrorOfTheTopAloneKeepsItsBackingFile) {
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam());
  ASSERT_TRUE(snapshot("a.qcow2"));
  Guest guest(*disk_, shadow, 5);
  let_it_run(guest, 30);
  DiskGraph::MirrorWish wish{.device = "disk0", .target = {.file = path("copy"), .format = "qcow2"}, .sync = MirrorJob::Sync::kTop, .job = job()};
  auto started = with_graph([&](DiskGraph& g) { return g.mirror(wish); });
  ASSERT_TRUE(started) << started.error().message;
  ASSERT_TRUE(events_.wait("ready"));
  let_it_run(guest, 20);
  ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.jobs().find("job")->complete(); }));
  EXPECT_EQ(events_.wait_end(), "");
  let_it_run(guest, 20);
  guest.stop();
  EXPECT_FALSE(guest.wrong());
  finish();
  EXPECT_EQ(backing_of("copy"), path("base"));
  expect_contents("copy", "qcow2", guest.shadow());
  expect_contents("base", GetParam(), shadow);
}

TEST_P(JobsTest, ACancelledReadyMirrorLeavesACopyOfThatMoment) {
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam());
  Guest guest(*disk_, shadow, 6);
  ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.mirror({.device = "disk0", .target = {.file = path("copy"), .format = "raw"}, .job = job()}); }));
  ASSERT_TRUE(events_.wait("ready"));
  Shadow then;
  guest.still([&](const Shadow& now) {
    ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.jobs().find("job")->cancel(false); }));
    EXPECT_EQ(events_.wait_end(), "");
    then = now;
  });
  let_it_run(guest, 20);
  guest.stop();
  finish();
  expect_contents("copy", "raw", then);
  expect_contents("base", GetParam(), guest.shadow());
}

TEST_P(JobsTest, ABackupIsTheDiskOfItsMoment) {
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam());
  Guest guest(*disk_, shadow, 7);
  for (bool compress : {false, true}) {
    Shadow then;
    guest.still([&](const Shadow& now) {
      auto made = backup({.device = "disk0", .target = {.file = path("copy"), .format = "qcow2"}, .compress = compress, .job = job(30 << 20)});
      ASSERT_TRUE(made) << made.error().message;
      then = now;
    });
    let_it_run(guest, 30);
    EXPECT_EQ(events_.wait_end(), "");
    events_.take();
    expect_contents("copy", "qcow2", then);
    expect_clean("copy");
  }
  guest.stop();
  EXPECT_FALSE(guest.wrong());
}

TEST_P(JobsTest, IncrementalBackupsAddUp) {
  const bool persistent = std::string(GetParam()) == "qcow2";
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam());
  Guest guest(*disk_, shadow, 8);
  // The bitmap and the first backup begin at one moment.
  Shadow then;
  guest.still([&](const Shadow& now) {
    auto made = with_graph([&](DiskGraph& g) -> Result<> {
      std::vector<Step> steps;
      steps.push_back(TRY(g.add_bitmap("disk0", "changes", 16, persistent, true)));
      steps.push_back(TRY(g.backup({.device = "disk0", .target = {.file = path("full"), .format = "qcow2"}, .job = job()})));
      return g.carry_out(std::move(steps));
    });
    ASSERT_TRUE(made) << made.error().message;
    then = now;
  });
  EXPECT_EQ(events_.wait_end(), "");
  events_.take();
  expect_contents("full", "qcow2", then);
  std::string below = "full";
  for (const char* name : {"one", "two", "three"}) {
    let_it_run(guest, 15);
    ASSERT_TRUE(make_image({.path = path(name), .size = kSize, .backing = path(below), .backing_format = "qcow2"}, {}));
    guest.still([&](const Shadow& now) {
      auto made = backup({.device = "disk0", .target = {.file = path(name), .format = "qcow2", .existing = true}, .sync = BackupJob::Sync::kBitmap, .bitmap = "changes", .job = job(30 << 20)});
      ASSERT_TRUE(made) << made.error().message;
      then = now;
    });
    let_it_run(guest, 15);
    EXPECT_EQ(events_.wait_end(), "");
    events_.take();
    expect_contents(name, "qcow2", then);
    expect_clean(name);
    below = name;
  }
  guest.stop();
  EXPECT_FALSE(guest.wrong());
  finish();
  if (!persistent) return;
  auto file = open_file({.path = path("base"), .read_only = true});
  auto image = qcow2::Qcow2::open(std::move(*file), nullptr, {});
  ASSERT_TRUE(image);
  ASSERT_NE((*image)->find_bitmap("changes"), nullptr);
  EXPECT_FALSE((*image)->find_bitmap("changes")->inconsistent());
}

TEST_P(JobsTest, AFailedBackupGivesItsBitsBack) {
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam());
  Guest guest(*disk_, shadow, 9);
  ASSERT_TRUE(with_graph([&](DiskGraph& g) -> Result<> {
    std::vector<Step> steps;
    steps.push_back(TRY(g.add_bitmap("disk0", "changes", 16, false, true)));
    return g.carry_out(std::move(steps));
  }));
  let_it_run(guest, 30);
  guest.stop();
  auto raw = make_image({.path = path("bad"), .format = "raw", .size = kSize}, {});
  auto failing = std::make_shared<Failing>(*raw);
  raw->reset();
  uint64_t before = 0;
  with_graph([&](DiskGraph& g) {
    EXPECT_TRUE(g.add_node({.name = "bad", .driver = "raw", .path = path("bad"), .image = std::exchange(failing, nullptr)}));
    before = g.bitmaps(*g.place("disk0"))[0].count;
    return 0;
  });
  EXPECT_GT(before, 0u);
  auto made = backup({.device = "disk0", .target = {.node = "bad"}, .sync = BackupJob::Sync::kBitmap, .bitmap = "changes", .job = job()});
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(events_.wait_end(), "no space");
  with_graph([&](DiskGraph& g) {
    auto info = g.bitmaps(*g.place("disk0"));
    EXPECT_EQ(info[0].count, before);
    EXPECT_FALSE(info[0].busy);
    return 0;
  });
}

TEST_P(JobsTest, AFullTargetStopsTheJobAndNotTheGuest) {
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam());
  Guest guest(*disk_, shadow, 10);
  auto raw = make_image({.path = path("bad"), .format = "raw", .size = kSize}, {});
  auto failing = std::make_shared<Failing>(*raw);
  raw->reset();
  Failing* handle = failing.get();
  Job::Config config = job();
  config.on_target_error = ErrorPolicy::kEnospc;
  auto started = with_graph([&](DiskGraph& g) -> Result<> {
    TRY_VOID(g.add_node({.name = "bad", .driver = "raw", .path = path("bad"), .image = std::exchange(failing, nullptr)}));
    return g.mirror({.device = "disk0", .target = {.node = "bad"}, .job = config});
  });
  ASSERT_TRUE(started) << started.error().message;
  ASSERT_TRUE(events_.wait("error write stop"));
  ASSERT_TRUE(events_.wait("status paused"));
  EXPECT_EQ(graph_->jobs().find("job")->state().io_status, "nospace");
  let_it_run(guest, 20);
  handle->left_ = 0;
  handle->broken_ = false;
  ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.jobs().find("job")->resume(); }));
  ASSERT_TRUE(events_.wait("ready"));
  ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.jobs().find("job")->complete(); }));
  EXPECT_EQ(events_.wait_end(), "");
  guest.stop();
  EXPECT_FALSE(guest.wrong());
  finish();
  expect_contents("bad", "raw", guest.shadow());
}

TEST_P(JobsTest, AFailedMirrorLeavesTheDiskAsItWas) {
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam());
  Guest guest(*disk_, shadow, 11);
  auto raw = make_image({.path = path("bad"), .format = "raw", .size = kSize}, {});
  auto failing = std::make_shared<Failing>(*raw);
  raw->reset();
  auto started = with_graph([&](DiskGraph& g) -> Result<> {
    TRY_VOID(g.add_node({.name = "bad", .driver = "raw", .path = path("bad"), .image = std::exchange(failing, nullptr)}));
    return g.mirror({.device = "disk0", .target = {.node = "bad"}, .write_blocking = true, .job = job()});
  });
  ASSERT_TRUE(started) << started.error().message;
  EXPECT_EQ(events_.wait_end(), "no space");
  let_it_run(guest, 20);
  guest.stop();
  EXPECT_FALSE(guest.wrong());
  finish();
  expect_contents("base", GetParam(), guest.shadow());
}

TEST_P(JobsTest, OneOfSeveralThatFailsTakesAllBack) {
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam());
  auto done = with_graph([&](DiskGraph& g) -> Result<> {
    std::vector<Step> steps;
    steps.push_back(TRY(g.add_bitmap("disk0", "x", 16, false, true)));
    steps.push_back(TRY(g.snapshot({.device = "disk0", .file = path("a.qcow2")})));
    steps.push_back({.disk = disk_.get(), .commit = []() -> Result<> { return fail(ErrorKind::kInvalid, "no"); }});
    return g.carry_out(std::move(steps));
  });
  EXPECT_FALSE(done);
  EXPECT_EQ(layers(disk_->live()->top()).size(), 1u);
  EXPECT_TRUE(with_graph([&](DiskGraph& g) { return g.bitmaps(*g.place("disk0")).empty(); }));
}

// A file of which one operation fails.
class FailingFile final : public FilterFile {
 public:
  enum class What { kSecondFlush, kTruncate };
  FailingFile(std::unique_ptr<File> file, What what) : FilterFile(std::move(file)), what_(what) {}
  Result<> flush() override { return what_ == What::kSecondFlush && ++flushes_ == 2 ? no() : FilterFile::flush(); }
  Result<> truncate(uint64_t size) override { return what_ == What::kTruncate ? no() : FilterFile::truncate(size); }

 private:
  static Result<> no() { return fail(ErrorKind::kIo, "no", EIO); }
  const What what_;
  std::atomic<int> flushes_ = 0;
};

TEST_P(JobsTest, ABackupWhoseTargetCannotBeClosedGivesItsBitsBack) {
  const Shadow shadow = make("base", GetParam());
  begin("base", GetParam(), [this](std::unique_ptr<File> file) -> std::unique_ptr<File> {
    if (file->name() != path("copy")) return file;
    return std::make_unique<FailingFile>(std::move(file), FailingFile::What::kSecondFlush);
  });
  Guest guest(*disk_, shadow, 12);
  ASSERT_TRUE(with_graph([&](DiskGraph& g) -> Result<> {
    std::vector<Step> steps;
    steps.push_back(TRY(g.add_bitmap("disk0", "changes", 16, false, true)));
    return g.carry_out(std::move(steps));
  }));
  let_it_run(guest, 20);
  guest.stop();
  const uint64_t before = with_graph([&](DiskGraph& g) { return g.bitmaps(*g.place("disk0"))[0].count; });
  EXPECT_GT(before, 0u);
  auto made = backup({.device = "disk0", .target = {.file = path("copy"), .format = "raw"}, .sync = BackupJob::Sync::kBitmap, .bitmap = "changes", .job = job()});
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(events_.wait_end(), "no");
  EXPECT_EQ(with_graph([&](DiskGraph& g) { return g.bitmaps(*g.place("disk0"))[0].count; }), before);
}

TEST_P(JobsTest, ANodeThatABackupWentToGoesOnAsItWas) {
  make("base", GetParam());
  begin("base", GetParam());
  auto made = make_image({.path = path("copy"), .size = kSize}, {});
  ASSERT_TRUE(made);
  qcow2::Qcow2* copy = as_qcow2(**made);
  ASSERT_TRUE(copy->add_bitmap("of the copy", 16, true));
  const std::vector<std::byte> data(kUnit, std::byte{1});
  ASSERT_TRUE(copy->write(0, data));
  auto started = with_graph([&](DiskGraph& g) -> Result<> {
    TRY_VOID(g.add_node({.name = "copy", .driver = "qcow2", .path = path("copy"), .image = std::move(*made)}));
    std::vector<Step> steps;
    steps.push_back(TRY(g.add_bitmap("disk0", "changes", 16, false, true)));
    return g.carry_out(std::move(steps));
  });
  ASSERT_TRUE(started) << started.error().message;
  started = backup({.device = "disk0", .target = {.node = "copy"}, .sync = BackupJob::Sync::kBitmap, .bitmap = "changes", .job = job()});
  ASSERT_TRUE(started) << started.error().message;
  EXPECT_EQ(events_.wait_end(), "");
  EXPECT_TRUE(copy->write(1 << 20, data));
  with_graph([&](DiskGraph& g) { g.jobs().reap(); return 0; });
  EXPECT_TRUE(with_graph([&](DiskGraph& g) { return g.remove_node("copy"); }));
  OpenOptions options;
  options.format = "qcow2";
  auto again = open_image(path("copy"), std::move(options));
  ASSERT_TRUE(again);
  auto bits = as_qcow2(**again)->bitmap_bits("of the copy");
  ASSERT_TRUE(bits) << bits.error().message;
  EXPECT_EQ((*bits)->dirty_bytes(), 2u * 65536);
}

// Whoever wrote the target's header would choose who is called.
TEST_P(JobsTest, ATargetsHeaderDoesNotLeadToTheNetwork) {
  make("base", GetParam());
  begin("base", GetParam());
  ASSERT_TRUE(make_image({.path = path("copy"), .size = kSize, .backing = "nbd://127.0.0.1:9/x", .backing_format = "raw"}, {}));
  auto started = with_graph([&](DiskGraph& g) { return g.mirror({.device = "disk0", .target = {.file = path("copy"), .format = "qcow2", .existing = true}, .job = job()}); });
  ASSERT_FALSE(started);
  EXPECT_NE(started.error().message.find("over the network is not followed"), std::string::npos) << started.error().message;
}

TEST_P(JobsTest, ACommitThatCannotMakeItsBaseLargerGivesItBack) {
  if (std::string(GetParam()) != "raw") return;  // a qcow2 file does not grow with its disk
  make("base", GetParam());
  begin("base", GetParam(), [this](std::unique_ptr<File> file) -> std::unique_ptr<File> {
    if (file->name() != path("base")) return file;
    return std::make_unique<FailingFile>(std::move(file), FailingFile::What::kTruncate);
  });
  ASSERT_TRUE(snapshot("a.qcow2"));
  ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.resize("disk0", 2 * kSize); }));
  ASSERT_TRUE(layers(disk_->live()->top())[1]->read_only());
  auto started = with_graph([&](DiskGraph& g) { return g.commit({.device = "disk0", .job = job()}); });
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().message, "no");
  ASSERT_EQ(layers(disk_->live()->top()).size(), 2u);
  EXPECT_TRUE(layers(disk_->live()->top())[1]->read_only());
}

// As a machine does whose disk lies on the same base.
TEST_P(JobsTest, ALayerThatAnotherProgramHasIsNotWrittenToHoweverOftenThatIsAskedFor) {
  make("base", GetParam());
  begin("base", GetParam());
  ASSERT_TRUE(snapshot("a.qcow2"));
  ASSERT_TRUE(snapshot("b.qcow2"));
  const std::string name = with_graph([&](DiskGraph& g) { return g.node_name(*layers(disk_->live()->top())[2]); });
  auto other = open_file({.path = path("base"), .read_only = true});
  ASSERT_TRUE(other) << other.error().message;
  for (const char* top : {"b.qcow2", "a.qcow2", "b.qcow2", "a.qcow2"}) {
    auto started = with_graph([&](DiskGraph& g) { return g.commit({.device = "disk0", .base_node = name, .top_file = path(top), .job = job()}); });
    ASSERT_FALSE(started) << top;
    EXPECT_NE(started.error().message.find("in use"), std::string::npos) << started.error().message;
    EXPECT_TRUE(layers(disk_->live()->top())[2]->read_only());
  }
  other->reset();
  auto started = with_graph([&](DiskGraph& g) { return g.commit({.device = "disk0", .base_node = name, .top_file = path("a.qcow2"), .job = job()}); });
  ASSERT_TRUE(started) << started.error().message;
  EXPECT_EQ(events_.wait_end(), "");
}

TEST_P(JobsTest, ALayerThatAJobWroteToKeepsItsName) {
  make("base", GetParam());
  begin("base", GetParam());
  for (const char* overlay : {"a.qcow2", "b.qcow2", "c.qcow2"}) ASSERT_TRUE(snapshot(overlay));
  auto name_of = [&](size_t layer) { return with_graph([&](DiskGraph& g) { return g.node_name(*layers(disk_->live()->top())[layer]); }); };
  const std::string b = name_of(1), base = name_of(3);
  ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.commit({.device = "disk0", .base_node = base, .top_file = path("a.qcow2"), .job = job()}); }));
  EXPECT_EQ(events_.wait_end(), "");
  events_.take();
  EXPECT_EQ(name_of(2), base);
  ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.stream({.device = b, .job = job()}); }));
  EXPECT_EQ(events_.wait_end(), "");
  EXPECT_EQ(layers(disk_->live()->top()).size(), 2u);
  EXPECT_EQ(name_of(1), b);
}

TEST_P(JobsTest, AfterACommitThatWasCancelledWhenReadyReadsGoStraightToTheBaseAgain) {
  make("base", GetParam());
  begin("base", GetParam());
  ASSERT_TRUE(snapshot("a.qcow2"));
  auto straight = [&] {
    std::vector<std::byte> data(kUnit);
    EXPECT_TRUE(disk_->live()->read(0, data));  // its tables are in memory then
    std::vector<Segment> segments;
    Hold hold;
    return disk_->live()->locate(0, kUnit, false, segments, hold);
  };
  EXPECT_TRUE(straight());
  ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.commit({.device = "disk0", .job = job()}); }));
  ASSERT_TRUE(events_.wait("ready"));
  EXPECT_FALSE(straight());
  ASSERT_TRUE(with_graph([&](DiskGraph& g) { return g.jobs().find("job")->cancel(false); }));
  EXPECT_EQ(events_.wait_end(), "");
  EXPECT_TRUE(straight());
}

// A job whose end waits until it is let go on.
class Waiting final : public Job {
 public:
  explicit Waiting(Config config) : Job(std::move(config), "test") {}
  ~Waiting() override { join(); }
  std::promise<void> finishing, go;
  bool finished = false, undone = false;

 private:
  Result<> run() override { return {}; }
  Result<> finish() override {
    finishing.set_value();
    go.get_future().wait();
    finished = true;
    return {};
  }
  void undo() override { undone = true; }
};

TEST(Job, ACancelThatComesWhenTheEndIsDecidedIsRefused) {
  Events events;
  Waiting job({.id = "job", .disk = {}});
  job.start(events);
  job.finishing.get_future().wait();
  EXPECT_FALSE(job.cancel(true));
  job.go.set_value();
  EXPECT_EQ(events.wait_end(), "");
  EXPECT_TRUE(job.finished);
  EXPECT_FALSE(job.undone);
  EXPECT_FALSE(job.state().cancelled);
}

TEST(Job, ACancelThatIsAcceptedCounts) {
  class Listener final : public JobListener {
   public:
    void status_changed(const JobState& state) override {
      if (state.status == JobStatus::kPending) accepted = job->cancel(true).has_value();
    }
    void ready(const JobState&) override {}
    void ended(const JobState& state) override { end.set_value(state.cancelled); }
    void error(const JobState&, const char*, const char*) override {}
    void pending(const JobState&) override {}
    Waiting* job = nullptr;
    bool accepted = false;
    std::promise<bool> end;
  } listener;
  Waiting job({.id = "job", .disk = {}});
  listener.job = &job;
  job.go.set_value();
  job.start(listener);
  EXPECT_TRUE(listener.end.get_future().get());
  job.join();
  EXPECT_TRUE(listener.accepted);
  EXPECT_TRUE(job.undone);
  EXPECT_FALSE(job.finished);
}

INSTANTIATE_TEST_SUITE_P(Formats, JobsTest, testing::Values("raw", "qcow2"), [](auto& info) { return std::string(info.param); });

// Power cuts: a process with the disk and a commit under way is killed; all images lose what was not flushed. Then every image must check
// with leaks at worst, and the disk must have what the guest had flushed.
class PowerCutTest : public JobsTest {};

TEST_P(PowerCutTest, ACommitThatIsCutOffLosesNothing) {
  for (unsigned seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
    const Shadow shadow = make("base", "qcow2", seed);
    // An overlay with the even units of it, so that there is something to commit.
    ASSERT_TRUE(make_image({.path = path("a.qcow2"), .size = kSize, .backing = path("base"), .backing_format = "qcow2"}, {}));
    Shadow expected = shadow;
    {
      OpenOptions options;
      options.read_only = false;
      options.format = "qcow2";
      auto image = open_image(path("a.qcow2"), std::move(options));
      ASSERT_TRUE(image);
      for (uint64_t u = seed % 7; u < kUnits; u += 5) {
        expected[u] = static_cast<uint8_t>(u + seed);
        std::vector<std::byte> data(kUnit, static_cast<std::byte>(expected[u]));
        ASSERT_TRUE((*image)->write(u * kUnit, std::span<const std::byte>(data)));
      }
      ASSERT_TRUE((*image)->close());
    }
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      begin("a.qcow2", "qcow2", [seed](std::unique_ptr<File> file) { return std::make_unique<FaultFile>(std::move(file), seed, seed % 4 * 25); });
      (void)with_graph([&](DiskGraph& g) { return g.commit({.device = "disk0", .job = job(60 << 20)}); });
      if (events_.wait("ready") && seed % 3 == 0) (void)with_graph([&](DiskGraph& g) { return g.jobs().find("job")->complete(); });
      pause();
      _exit(0);
    }
    usleep(20'000 * seed);
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    for (const char* name : {"base", "a.qcow2"}) {
      SCOPED_TRACE(name);
      expect_clean(name, true);
    }
    expect_contents("a.qcow2", "qcow2", expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, PowerCutTest, testing::Values("qcow2"), [](auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace vireo::storage
