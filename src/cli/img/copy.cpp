// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <map>
#include <thread>

#include "cli/img/convert.h"
#include "storage/file/aligned_buffer.h"

namespace vireo::cli::img {
namespace {

using storage::AlignedBuffer;

constexpr uint64_t kPiece = 1 << 20, kAhead = 16 << 20;

class Copier {
 public:
  explicit Copier(CopyJob& job) : job_(job) {
    for (auto& s : job_.sources) size_ += s->size();
    // A piece of compressed data is one cluster of the target.
    piece_ = job_.compressed ? std::max<uint64_t>(job_.target->cluster_size(), 512) : std::max<uint64_t>(kPiece, job_.target->cluster_size());
  }

  Result<> run() {
    // Twice as many as processors while those wait for a disk or compress what another one has read.
    unsigned count = job_.threads ? job_.threads : std::clamp(std::thread::hardware_concurrency(), 4u, 16u);
    if (job_.salvage) {
      count = 1;  // a disk that fails is read once and in order
      TRY_VOID(look_through());
    }
    // Where all wait for one who has no processor now, the others can go on for a while; only what is packed is kept meanwhile.
    window_ = std::max<uint64_t>(count + 2, job_.compressed ? std::min<uint64_t>(kAhead / piece_, 1024) : 0);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < count; ++i) threads.emplace_back([this] { work(); });
    for (auto& t : threads) t.join();
    if (failed_) return std::unexpected(error_);
    return {};
  }

 private:
  static constexpr uint64_t kSector = 512;

  void warn(const char* what, uint64_t offset, const Error& error) {
    if (job_.warn) job_.warn(what + (" offset " + std::to_string(offset)) + ": " + strerror(error.code ? error.code : EIO));
  }

  // Says beforehand where the source cannot tell what it has.
  Result<> look_through() {
    for (auto& source : job_.sources)
      for (uint64_t at = 0; at < source->size();) at += (TRY(status(*source, at, source->size() - at))).length;
    return {};
  }

  struct Piece {
    uint64_t turn = 0, at = 0, length = 0;
    enum class Kind { kData, kZero, kSkip } kind = Kind::kData;
  };

  // The next piece of one kind. The lock is held.
  Result<bool> take(Piece& piece) {
    if (at_ >= size_) return false;
    piece.at = at_;
    piece.turn = turns_++;
    uint64_t start = 0;
    for (auto& source : job_.sources) {
      if (at_ >= start + source->size()) {
        start += source->size();
        continue;
      }
      source_ = source.get();
      break;
    }
    uint64_t left = start + source_->size() - at_;
    if (job_.compressed) {
      // Whole clusters, data if any part is.
      piece.length = std::min(piece_, size_ - at_);
      piece.kind = Piece::Kind::kSkip;
      for (uint64_t done = 0; done < piece.length;) {
        Image* s = source_at(at_ + done, start);
        auto extent = TRY(status(*s, at_ + done - start, std::min(piece.length - done, start + s->size() - at_ - done)));
        if (extent.kind == Piece::Kind::kData) piece.kind = Piece::Kind::kData;
        else if (extent.kind == Piece::Kind::kZero && piece.kind == Piece::Kind::kSkip) piece.kind = Piece::Kind::kZero;
        done += extent.length;
      }
    } else {
      auto extent = TRY(status(*source_, at_ - start, left));
      piece.kind = extent.kind;
      piece.length = extent.length;
      // Pieces end where the target's clusters do, so that no two touch one cluster for long.
      if (extent.kind == Piece::Kind::kData && piece.length > piece_ - at_ % piece_) piece.length = piece_ - at_ % piece_;
    }
    at_ += piece.length;
    return true;
  }

  Image* source_at(uint64_t offset, uint64_t& start) {
    start = 0;
    for (auto& source : job_.sources) {
      if (offset < start + source->size()) return source.get();
      start += source->size();
    }
    return nullptr;
  }

  struct Status {
    Piece::Kind kind;
    uint64_t length;
  };
  Result<Status> status(Image& source, uint64_t offset, uint64_t length) {
    auto extent = storage::status_above(source, job_.base, offset, length);
    // Less and less, until it is known which sector it is that cannot be told.
    for (; !extent && job_.salvage && length > kSector; extent = storage::status_above(source, job_.base, offset, length))
      length = std::max(kSector, length / 4 / kSector * kSector);
    if (!extent) {
      if (!job_.salvage) return std::unexpected(std::move(extent).error());
      warn("error while reading block status at", offset, extent.error());
      return Status{Piece::Kind::kData, std::min<uint64_t>(length, kSector)};
    }
    if (extent->zero && (job_.sparse || !job_.compressed)) return Status{Piece::Kind::kZero, extent->length};
    if (job_.base && !extent->allocated) {
      // Beyond the base's end its overlay reads zeroes.
      if (offset >= job_.base_size) return Status{Piece::Kind::kZero, extent->length};
      return Status{Piece::Kind::kSkip, std::min(extent->length, job_.base_size - offset)};
    }
    return Status{Piece::Kind::kData, extent->length};
  }

  Result<> read(uint64_t at, std::span<std::byte> to) {
    for (uint64_t done = 0; done < to.size();) {
      uint64_t start;
      Image* source = source_at(at + done, start);
      uint64_t n = std::min(to.size() - done, start + source->size() - at - done);
      auto piece = to.subspan(done, n);
      if (auto got = source->read(at + done - start, piece); !got) {
        if (!job_.salvage) return got;
        for (uint64_t s = 0; s < n; s += 512) {
          auto sector = piece.subspan(s, std::min<uint64_t>(512, n - s));
          if (auto one = source->read(at + done - start + s, sector); !one) {
            warn("error while reading", at + done + s, one.error());
            std::ranges::fill(sector, std::byte{0});
          }
        }
      }
      done += n;
    }
    return {};
  }

  // A piece that was read (and compressed) and waits for its turn to be written.
  struct Ready {
    Piece piece;
    AlignedBuffer data;
    std::vector<std::byte> packed;
    bool zero = false;
    Result<> result;
  };

  void work() {
    for (;;) {
      Ready ready;
      {
        std::unique_lock lock(mutex_);
        turn_changed_.wait(lock, [&] { return failed_ || turns_ - turn_ < window_; });
        if (failed_) return;
        auto taken = take(ready.piece);
        if (!taken) return fail_with(taken.error());
        if (!*taken) return;
        if (!buffers_.empty()) ready.data = std::move(buffers_.back()), buffers_.pop_back();
      }
      prepare(ready);
      if (job_.out_of_order && ready.result) ready.result = write(ready);
      std::unique_lock lock(mutex_);
      if (ready.data.bytes && (ready.zero || !ready.packed.empty())) buffers_.push_back(std::exchange(ready.data, {}));
      const uint64_t turn = ready.piece.turn;
      ready_.emplace(turn, std::move(ready));
      // One thread writes what is next for all of them; the others go on.
      if (writing_) continue;
      writing_ = true;
      while (!failed_ && !ready_.empty() && ready_.begin()->first == turn_) {
        Ready next = std::move(ready_.begin()->second);
        ready_.erase(ready_.begin());
        lock.unlock();
        if (next.result && !job_.out_of_order) next.result = write(next);
        lock.lock();
        ++turn_;
        done_ += next.piece.length;
        if (job_.progress) job_.progress->show(done_, size_);
        if (next.data.bytes) buffers_.push_back(std::move(next.data));
        if (!next.result) fail_with(next.result.error());
        turn_changed_.notify_one();
      }
      writing_ = false;
      if (failed_) return;
    }
  }

  void prepare(Ready& ready) {
    const Piece& piece = ready.piece;
    ready.zero = piece.kind == Piece::Kind::kZero;
    if (piece.kind != Piece::Kind::kData) return;
    if (!ready.data.bytes) ready.data = AlignedBuffer(piece_);
    if (!ready.data.bytes) {
      ready.result = fail(ErrorKind::kIo, "no memory for a buffer", ENOMEM);
      return;
    }
    auto data = std::span(ready.data.bytes, piece.length);
    ready.result = read(piece.at, data);
    if (!ready.result || !job_.compressed) return;
    ready.zero = job_.sparse && storage::all_zero(data.data(), data.size());
    auto* q = as_qcow2(*job_.target);
    if (ready.zero || !q) return;
    std::fill(data.data() + data.size(), data.data() + piece_, std::byte{0});
    ready.packed = q->compress(std::span<const std::byte>(data.data(), piece_));
  }

  Result<> write_zero(uint64_t at, uint64_t length) {
    if (job_.target_is_zero) return {};
    return job_.target->write_zeroes(at, length, true);
  }

  Result<> write(const Ready& ready) {
    const Piece& piece = ready.piece;
    const bool zero = ready.zero;
    std::span<const std::byte> data(ready.data.bytes, piece.kind == Piece::Kind::kData ? piece.length : 0), packed = ready.packed;
    if (piece.kind == Piece::Kind::kSkip) return {};
    if (zero && job_.sparse == 0 && !job_.compressed) {
      std::vector<std::byte> zeroes(std::min<uint64_t>(piece.length, kPiece));
      for (uint64_t done = 0; done < piece.length; done += zeroes.size())
        TRY_VOID(job_.target->write(piece.at + done, std::span<const std::byte>(zeroes).first(std::min<uint64_t>(zeroes.size(), piece.length - done))));
      return {};
    }
    if (zero) return write_zero(piece.at, piece.length);
    if (job_.compressed) {
      if (!packed.empty()) return as_qcow2(*job_.target)->write_precompressed(piece.at, packed);
      return job_.target->write(piece.at, data);
    }
    if (job_.sparse == 0) return job_.target->write(piece.at, data);
    // Runs of data and of zeroes, in steps of the shortest hole.
    const uint64_t step = std::max<uint64_t>(job_.sparse, 512);
    for (uint64_t done = 0; done < data.size();) {
      auto next = [&](uint64_t from) { return std::min<uint64_t>(data.size(), (piece.at + from) / step * step + step - piece.at); };
      uint64_t end = next(done);
      bool empty = storage::all_zero(&data[done], end - done);
      while (end < data.size()) {
        uint64_t after = next(end);
        if (storage::all_zero(&data[end], after - end) != empty) break;
        end = after;
      }
      TRY_VOID(empty ? write_zero(piece.at + done, end - done) : job_.target->write(piece.at + done, data.subspan(done, end - done)));
      done = end;
    }
    return {};
  }

  // The lock is held.
  void fail_with(Error error) {
    if (!failed_) error_ = std::move(error);
    failed_ = true;
    turn_changed_.notify_all();
  }

  CopyJob& job_;
  uint64_t size_ = 0, piece_ = 0;
  std::mutex mutex_;
  std::condition_variable turn_changed_;
  uint64_t at_ = 0, turns_ = 0, turn_ = 0, done_ = 0;
  Image* source_ = nullptr;
  uint64_t window_ = 0;  // how many pieces may be under way
  std::map<uint64_t, Ready> ready_;
  bool writing_ = false;
  std::vector<AlignedBuffer> buffers_;
  bool failed_ = false;
  Error error_;
};

}  // namespace

Result<> copy(CopyJob& job) { return Copier(job).run(); }

}  // namespace vireo::cli::img
