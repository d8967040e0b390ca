package org.apache.tvm;

public class Device {
    public final int deviceType;
    public final int deviceId;

    public Device(int deviceType, int deviceId) {
        this.deviceType = deviceType;
        this.deviceId = deviceId;
    }

    public static native Device cpu();

    public static native Device opencl();
}
