// NumPy's .npy files of numbers in C order (format: numpy.lib.format's documentation, version 1.0).
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace npy {

struct Array {
  std::vector<int64_t> shape;
  std::string dtype = "<f4";
  std::vector<char> bytes;

  const float* floats() const { return reinterpret_cast<const float*>(bytes.data()); }
  size_t count() const { return bytes.size() / std::strtoul(dtype.c_str() + 2, nullptr, 10); }
};

// "1x3x224x224"
inline std::string words(const std::vector<int64_t>& shape) {
  std::string text;
  for (int64_t extent : shape) text += (text.empty() ? "" : "x") + std::to_string(extent);
  return text;
}

// The text between two others in a file's header, or nothing.
inline std::string between(const std::string& text, const std::string& before, const std::string& after) {
  size_t start = text.find(before);
  if (start == std::string::npos) return "";
  start += before.size();
  return text.substr(start, text.find(after, start) - start);
}

inline Array read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("there is no file " + path);
  std::vector<char> all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (all.size() < 12 || std::memcmp(all.data(), "\x93NUMPY", 6)) throw std::runtime_error(path + " is not a .npy file");
  auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<unsigned char>(all[at])); };
  size_t length = byte(8) | byte(9) << 8, start = 10;
  if (all[6] > 1) length |= byte(10) << 16 | byte(11) << 24, start = 12;
  if (start + length > all.size()) throw std::runtime_error(path + " is truncated");
  std::string header(all.data() + start, length);
  Array array;
  array.dtype = between(header, "'descr': '", "'");
  if (array.dtype != "<f4") throw std::runtime_error(path + " holds numbers of '" + array.dtype + "', not float32");
  if (between(header, "'fortran_order': ", ",") != "False") throw std::runtime_error(path + " is in Fortran's order; save a C-contiguous array");
  std::string extents = between(header, "'shape': (", ")");
  uint64_t size = sizeof(float);
  for (const char* at = extents.c_str(); *at;) {
    char* end = nullptr;
    long long extent = std::strtoll(at, &end, 10);
    if (end == at) break;
    array.shape.push_back(extent);
    size *= static_cast<uint64_t>(extent);
    at = end + std::strspn(end, ", ");
  }
  array.bytes.assign(all.begin() + static_cast<long>(start + length), all.end());
  if (array.bytes.size() != size) throw std::runtime_error(path + " is truncated, or has more than its " + words(array.shape) + " numbers");
  return array;
}

// Replaces an existing file only by a whole one.
inline void write(const std::string& path, const Array& array) {
  std::string shape;
  for (int64_t extent : array.shape) shape += std::to_string(extent) + ",";
  std::string header = "{'descr': '" + array.dtype + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header += std::string(63 - (10 + header.size()) % 64, ' ') + "\n";
  std::string temporary = path + ".part";
  std::ofstream file(temporary, std::ios::binary);
  file.write("\x93NUMPY\x01\x00", 8).put(static_cast<char>(header.size() & 255)).put(static_cast<char>(header.size() >> 8));
  file << header;
  file.write(array.bytes.data(), static_cast<long>(array.bytes.size()));
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str())) {
    std::remove(temporary.c_str());
    throw std::runtime_error("cannot write " + path);
  }
}

}  // namespace npy
