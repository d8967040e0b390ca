package edgetransact.edge;

import java.nio.file.Path;

/** The asset packs that Google Play brings after the app. */
@FunctionalInterface
public interface Packs {
    /** The directory of a pack's assets, or null if it isn't on the phone. */
    Path find(String name);
}
