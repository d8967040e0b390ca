package org.apache.tvm;

public class Device {
    public final int deviceType;
    public final int deviceId = 0;

    Device(int type) {
        deviceType = type;
    }

    public static Device cpu() {
        return new Device(1);
    }

    public static Device opencl() {
        return new Device(4);
    }
}
