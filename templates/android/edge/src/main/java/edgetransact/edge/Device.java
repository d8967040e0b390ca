package edgetransact.edge;

import org.json.JSONException;

/** What a library runs on. */
public enum Device {
    /** The GPU, through OpenCL. */
    OPENCL("android"),
    /** The CPU, which every phone has. */
    CPU("android-cpu");

    private final String target;

    Device(String target) {
        this.target = target;
    }

    /** The device of a target. */
    static Device of(String target) throws JSONException {
        for (Device device : values()) {
            if (device.target.equals(target)) {
                return device;
            }
        }
        throw new JSONException("no target of an app: " + target);
    }

    /** The target that {@code edge-transact build} compiles for this device, as in {@code models.json}. */
    public String target() {
        return target;
    }
}
