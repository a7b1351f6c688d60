// NumPy's .npz files: zip archives of .npy files, stored without compression (format: PKWARE's APPNOTE.TXT).
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "npy.h"

namespace npz {

using Arrays = std::vector<std::pair<std::string, npy::Array>>;  // by name, in a file's order

constexpr uint32_t LOCAL = 0x04034b50, ENTRY = 0x02014b50, END = 0x06054b50;  // how headers of a zip file begin

inline uint32_t crc32(const char* bytes, size_t count) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; ++i) {
      made[i] = i;
      for (int bit = 0; bit < 8; ++bit) made[i] = made[i] >> 1 ^ (made[i] & 1 ? 0xedb88320u : 0);
    }
    return made;
  }();
  uint32_t sum = ~0u;
  for (size_t i = 0; i < count; ++i) sum = table[(sum ^ static_cast<unsigned char>(bytes[i])) & 255] ^ sum >> 8;
  return ~sum;
}

// Reads numbers of a file, low bytes first.
class Reader {
 public:
  Reader(const std::vector<char>& bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  const char* at(size_t place, size_t count) const {
    if (place > bytes_.size() || count > bytes_.size() - place) throw std::runtime_error(path_ + " is truncated or not a .npz file");
    return bytes_.data() + place;
  }
  uint32_t number(size_t place, size_t count) const {
    const char* from = at(place, count);
    uint32_t value = 0;
    for (size_t i = 0; i < count; ++i) value |= static_cast<uint32_t>(static_cast<unsigned char>(from[i])) << 8 * i;
    return value;
  }
  // The directory's first entry, and how many there are.
  std::pair<size_t, size_t> directory() const {
    constexpr size_t least = 22, longest_comment = 65535;
    for (size_t back = least; back <= bytes_.size() && back <= least + longest_comment; ++back) {
      const size_t end = bytes_.size() - back;
      if (number(end, 4) == END) return {number(end + 16, 4), number(end + 10, 2)};
    }
    throw std::runtime_error(path_ + " is truncated or not a .npz file");
  }

 private:
  const std::vector<char>& bytes_;
  const std::string& path_;
};

inline Arrays read(const std::string& path) {
  const std::vector<char> bytes = npy::content(path);
  const Reader file(bytes, path);
  auto [entry, count] = file.directory();
  Arrays arrays;
  size_t total = 0;  // of members that may lie over each other
  for (size_t i = 0; i < count; ++i) {
    if (file.number(entry, 4) != ENTRY) throw std::runtime_error(path + " is truncated or not a .npz file");
    const uint32_t method = file.number(entry + 10, 2), sum = file.number(entry + 16, 4), size = file.number(entry + 24, 4);
    const uint32_t name_size = file.number(entry + 28, 2), local = file.number(entry + 42, 4);
    std::string name(file.at(entry + 46, name_size), name_size);
    if (method) throw std::runtime_error(path + " is compressed; write it with numpy.savez, not numpy.savez_compressed");
    const size_t start = size_t{local} + 30 + file.number(local + 26, 2) + file.number(local + 28, 2);
    const char* from = file.at(start, size);
    if ((total += size) > bytes.size()) throw std::runtime_error(path + " has members that lie over each other");
    if (crc32(from, size) != sum) throw std::runtime_error(name + " in " + path + " is damaged");
    npy::Array array = npy::parsed(std::vector<char>(from, from + size), name + " in " + path);
    if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npy") == 0) name.resize(name.size() - 4);
    arrays.emplace_back(name, std::move(array));
    entry += 46 + name_size + file.number(entry + 30, 2) + file.number(entry + 32, 2);
  }
  return arrays;
}

// Puts a number behind what is there, low bytes first.
inline void put(std::vector<char>& bytes, uint64_t value, size_t count) {
  for (size_t i = 0; i < count; ++i) bytes.push_back(static_cast<char>(value >> 8 * i & 255));
}

inline void write(const std::string& path, const Arrays& arrays) {
  constexpr uint32_t version = 20, first_of_january_1980 = 33;
  std::vector<char> bytes, directory;
  for (const auto& [plain, array] : arrays) {
    const std::string name = plain + ".npy";
    const std::vector<char> file = npy::file_of(array);
    const size_t start = bytes.size();
    if (start + file.size() > 0xfffffffeu) throw std::runtime_error("the outputs are more than a .npz file of 4 GB holds");
    std::vector<char> about;  // what both headers say
    put(about, version, 2), put(about, 0, 4), put(about, 0, 2), put(about, first_of_january_1980, 2);
    put(about, crc32(file.data(), file.size()), 4), put(about, file.size(), 4), put(about, file.size(), 4), put(about, name.size(), 2), put(about, 0, 2);
    put(bytes, LOCAL, 4), bytes.insert(bytes.end(), about.begin(), about.end());
    bytes.insert(bytes.end(), name.begin(), name.end()), bytes.insert(bytes.end(), file.begin(), file.end());
    put(directory, ENTRY, 4), put(directory, version, 2), directory.insert(directory.end(), about.begin(), about.end());
    put(directory, 0, 8), put(directory, 0, 2), put(directory, start, 4), directory.insert(directory.end(), name.begin(), name.end());
  }
  const size_t start = bytes.size();
  bytes.insert(bytes.end(), directory.begin(), directory.end());
  put(bytes, END, 4), put(bytes, 0, 4), put(bytes, arrays.size(), 2), put(bytes, arrays.size(), 2);
  put(bytes, directory.size(), 4), put(bytes, start, 4), put(bytes, 0, 2);
  npy::write(path, bytes);
}

}  // namespace npz
