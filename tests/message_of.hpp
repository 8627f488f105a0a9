#pragma once

#include <mistral/base/error.hpp>

#include <string>

/// The message of the mistral::Error that `call` throws; empty where it throws none. Other exceptions pass.
template <class Call>
std::string message_of(Call&& call) {
    try {
        static_cast<void>(call());
        return {};
    } catch (const mistral::Error& error) {
        return error.what();
    }
}
