// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/stored_code.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdlib>
#include <cstring>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/log.h"
#include "softkvm/counters.h"
#include "softkvm/softkvm.h"
#include "softkvm/translate/engine_key.h"
#include "softkvm/translate/stored_record.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {
namespace {

constexpr size_t kNotes = 192u << 20;     // of blocks that were made; untouched it takes no memory
constexpr uint8_t kOldest = 40;           // so many written runs a block is kept that none of them used
constexpr auto kFirstSave = std::chrono::seconds(60), kLongestWait = std::chrono::seconds(900);

// One for the process.
std::mutex keep_mutex;
std::shared_ptr<const CodeFolder> kept;

// A writing costs some tenths of a second: not for a handful of blocks that chance has made.
bool worth_writing(size_t made, size_t stored) { return made >= 64 && made >= stored / 50; }

struct Hold {
  explicit Hold(CodeLock& lock) : lock(lock) { lock.lock(); }
  ~Hold() { lock.unlock(); }
  CodeLock& lock;
};

std::string name_of(const CodeKey& key) {
  std::string name;
  for (size_t i = 0; i < 16; i++) {
    constexpr char kDigits[] = "0123456789abcdef";
    name += kDigits[key[i] >> 4];
    name += kDigits[key[i] & 15];
  }
  return name + CodeFolder::kSuffix;
}

// VIREO_CODE_CACHE=FOLDER[,size=MIB] in the environment, for programs that have no option for it.
void read_environment() {
  const char* text = getenv("VIREO_CODE_CACHE");
  {
    std::lock_guard lock(keep_mutex);
    if (kept || !text || !*text) return;  // an option wins
  }
  std::string folder = text;
  uint64_t most = kMostCodeFile;
  constexpr std::string_view kSize = ",size=";
  if (const size_t at = folder.rfind(kSize); at != std::string::npos) {
    char* end = nullptr;
    const uint64_t mib = strtoull(folder.c_str() + at + kSize.size(), &end, 10);
    if (*end || mib == 0 || mib > 1u << 20) {
      log(LogLevel::kWarning, "VIREO_CODE_CACHE=%s: size is a number of MiB", text);
      return;
    }
    most = mib << 20;
    folder.resize(at);
  }
  if (auto result = StoredCode::keep(folder, most); !result) log(LogLevel::kWarning, "VIREO_CODE_CACHE=%s", result.error().message.c_str());
}

}  // namespace

Result<> keep_code(const std::string& folder, uint64_t most) { return StoredCode::keep(folder, most); }

Result<> StoredCode::keep(const std::string& folder, uint64_t most) {
  auto opened = TRY(CodeFolder::open(folder, most));
  std::lock_guard lock(keep_mutex);
  kept = std::make_shared<const CodeFolder>(std::move(opened));
  return {};
}

void StoredCode::keep_nothing() {
  std::lock_guard lock(keep_mutex);
  kept.reset();
}

std::unique_ptr<StoredCode> StoredCode::create(uint32_t off, CodeLock& lock, VmCounters& counters) {
  static std::once_flag once;
  std::call_once(once, read_environment);
  std::shared_ptr<const CodeFolder> folder;
  {
    std::lock_guard hold(keep_mutex);
    folder = kept;
  }
  return folder ? std::unique_ptr<StoredCode>(new StoredCode(std::move(folder), off, lock, counters)) : nullptr;
}

StoredCode::StoredCode(std::shared_ptr<const CodeFolder> folder, uint32_t off, CodeLock& lock, VmCounters& counters)
    : folder_(std::move(folder)), off_(off), lock_(lock), counters_(counters), process_(getpid()) {}

StoredCode::~StoredCode() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (!thread_.joinable()) return;
  if (getpid() == process_) thread_.join();
  else thread_.detach();  // the child of a fork has no such thread
}

StoredBlocks* StoredCode::blocks_for(const Vcpu& vcpu) {
  const std::optional<CodeKey> key = engine_key(vcpu, off_);
  std::lock_guard lock(start_mutex_);
  if (!key_ && key) start(vcpu, *key);
  return key_ && key == key_ ? &blocks_ : nullptr;
}

void StoredCode::start(const Vcpu& vcpu, const CodeKey& key) {
  if (!vcpu.cpuid || !blocks_.make_notes(kNotes)) return;
  key_ = key;
  name_ = name_of(key);
  cpuid_ = *vcpu.cpuid;
  state_.emplace(vcpu);
  state_->cpuid = &cpuid_;
  sigset_t every, before;
  sigfillset(&every);
  pthread_sigmask(SIG_SETMASK, &every, &before);  // signals are for the program's own threads
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void StoredCode::run() {
  pthread_setname_np(pthread_self(), "code cache");
  read();
  std::unique_lock lock(mutex_);
  read_ = true;
  changed_.notify_all();
  for (auto wait = std::chrono::seconds(kFirstSave); !changed_.wait_for(lock, wait, [this] { return stop_.load(); }); wait = std::min(2 * wait, std::chrono::seconds(kLongestWait))) {
    lock.unlock();
    save();
    lock.lock();
  }
}

void StoredCode::wait_until_read() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return read_ || !thread_.joinable(); });
}

void StoredCode::read() {
  auto opened = folder_->open_file(name_);
  if (!opened && opened.error().kind == ErrorKind::kNotFound) return;
  Result<> result;
  if (opened) {
    file_ = std::move(*opened);
    result = read_code_file(file_.get(), *key_, blocks_, &stop_);
  } else {
    result = std::unexpected(opened.error());
  }
  counters_.code_blocks_stored = blocks_.count();
  if (!result) log(LogLevel::kWarning, "code cache: %s/%s: %s; it is not used%s", folder_->path().c_str(), name_.c_str(), result.error().message.c_str(), blocks_.count() ? " any further" : "");
}

// What was noted in front of `end`: in the order in which it came, but what is of one page together.
std::vector<const MadeBlock*> StoredCode::by_page(size_t end) const {
  std::unordered_map<uint32_t, uint32_t> order;
  std::vector<std::pair<uint32_t, const MadeBlock*>> found;
  blocks_.each_made(end, [&](const MadeBlock& made) { found.emplace_back(order.emplace(made.page, order.size()).first->second, &made); });
  std::ranges::stable_sort(found, {}, &std::pair<uint32_t, const MadeBlock*>::first);
  std::vector<const MadeBlock*> all;
  for (const auto& [page, made] : found) all.push_back(made);
  return all;
}

Result<> StoredCode::collect(StoredBlocks& into, size_t made_end, const StoredBlocks* newer) {
  // As much as may be written; the mapping takes no memory for what is not.
  const size_t most = std::min<size_t>(kMostCodeFile, folder_->most()) & ~size_t{7};
  if (!into.make_room(most, most / sizeof(StoredBlock))) return fail(ErrorKind::kIo, "there is no memory for writing it");
  size_t at = 0;
  // Takes a record in. What comes with `more` set is of the same page as the one before it, if that was put too.
  StoredBlock* before = nullptr;
  auto put = [&](std::span<const uint8_t> record, uint8_t age, bool looked_up, bool of_same_page) {
    StoredBlock* last = std::exchange(before, nullptr);
    if (record.empty() || into.full(record.size())) return;
    auto* now = reinterpret_cast<StoredBlock*>(into.body() + at);
    std::memcpy(into.body() + at, record.data(), record.size());
    now->age = age;
    now->more = 0;
    now->looked_up |= looked_up;
    if (StoredBlock* twin = into.twin(*now)) {
      twin->looked_up |= now->looked_up;
      before = last;
      return;
    }
    if (into.take(at + record.size()) || into.taken() > at) {
      at = into.taken();
      before = now;
      if (last && of_same_page) last->more = 1;
    }
  };
  RecordMaker maker(*state_);
  uint32_t page = 0;
  for (const MadeBlock* made : by_page(made_end)) {
    if (stop_.load(std::memory_order_relaxed) && getpid() != process_) return {};
    const bool same = std::exchange(page, made->page) == made->page;
    if (made->stored) {
      const StoredBlock& stored = blocks_.at(made->stored);
      put({stored.bytes(), stored.size}, 0, made->looked_up || blocks_.was_looked_up(made->stored), same);
    } else {
      const std::span<const uint8_t> record = maker.make(*made);
      if (!record.empty() && !maker.found_in(into, *made)) put(record, 0, made->looked_up, same);
    }
  }
  for (const StoredBlocks* old : {newer, static_cast<const StoredBlocks*>(&blocks_)}) {
    bool same = false;
    if (old)
      old->each([&](const StoredBlock& stored) {
        const uint8_t age = stored.age + (old == &blocks_ ? 1 : 0);
        if (age <= kOldest) put({stored.bytes(), stored.size}, age, false, same);
        same = stored.more;
      });
  }
  return {};
}

Result<> StoredCode::write(size_t made_end) {
  const OwnedFd only = TRY(folder_->lock());
  // Another process may have written one since.
  StoredBlocks newer;
  bool other = false, whole;  // of the file that is there: has it more than this process has read?
  {
    std::lock_guard lock(mutex_);
    whole = read_;
  }
  if (auto now = folder_->open_file(name_)) {
    struct stat mine, theirs;
    other = !whole || (::fstat(now->get(), &theirs) == 0 &&
                       (!file_.valid() || ::fstat(file_.get(), &mine) != 0 || mine.st_dev != theirs.st_dev || mine.st_ino != theirs.st_ino));
    if (other) other = read_code_file(now->get(), *key_, newer).has_value() || newer.count();
  }
  StoredBlocks all;
  TRY_VOID(collect(all, made_end, other ? &newer : nullptr));
  if (!all.count()) return {};
  auto file = TRY(folder_->create());
  if (auto result = write_code_file(file.fd.get(), *key_, all); !result) {
    folder_->discard(file);
    return result;
  }
  TRY_VOID(folder_->put(std::move(file), name_));
  folder_->tidy(name_);
  return {};
}

void StoredCode::save() {
  if (getpid() != process_) return;  // the child of a fork: who holds the lock may be in the parent
  std::lock_guard one(save_mutex_);
  if (!key_) return;
  size_t made_new, made_end;
  {
    Hold hold(lock_);
    made_new = blocks_.made_new();
    made_end = blocks_.made_end();
  }
  if (!worth_writing(made_new - saved_new_, blocks_.count())) return;
  const auto result = write(made_end);
  const bool busy = !result && result.error().kind == ErrorKind::kBusy;  // then again the next time
  if (!busy) saved_new_ = made_new;
  if (!result && !busy)
    log(LogLevel::kWarning, "code cache: %s/%s: %s; what was translated is not kept", folder_->path().c_str(), name_.c_str(), result.error().message.c_str());
}

}  // namespace vireo::softkvm
