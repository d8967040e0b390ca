package edgetransact.app;

import android.view.LayoutInflater;
import android.view.View;
import android.view.ViewGroup;
import android.widget.BaseAdapter;
import android.widget.TextView;
import edgetransact.edge.Reasoning;
import edgetransact.edge.android.ModelHolder;

/** The messages of a chat as rows of a list. */
final class MessageAdapter extends BaseAdapter {
    private static final int MINE = 0;
    private static final int MODEL = 1;

    private final Chat chat;
    private final ModelHolder holder;
    private final Words words;

    MessageAdapter(Chat chat, ModelHolder holder, Words words) {
        this.chat = chat;
        this.holder = holder;
        this.words = words;
    }

    @Override
    public int getCount() {
        return chat.bubbles().size();
    }

    @Override
    public Chat.Bubble getItem(int position) {
        return chat.bubbles().get(position);
    }

    @Override
    public long getItemId(int position) {
        return position;
    }

    @Override
    public int getViewTypeCount() {
        return 2;
    }

    @Override
    public int getItemViewType(int position) {
        return getItem(position).mine ? MINE : MODEL;
    }

    @Override
    public View getView(int position, View recycled, ViewGroup parent) {
        Chat.Bubble bubble = getItem(position);
        View row = recycled;
        if (row == null) {
            int layout = bubble.mine ? R.layout.message_mine : R.layout.message_model;
            row = LayoutInflater.from(parent.getContext()).inflate(layout, parent, false);
        }
        TextView text = row.findViewById(R.id.text);
        text.setText(bubble.mine ? bubble.text : Reasoning.shown(bubble.text.toString()));
        if (!bubble.mine) {
            boolean waiting = bubble.text.length() == 0 && bubble.finish == null && bubble.error == null;
            text.setVisibility(bubble.text.length() == 0 ? View.GONE : View.VISIBLE);
            row.findViewById(R.id.waiting).setVisibility(waiting ? View.VISIBLE : View.GONE);
            TextView note = row.findViewById(R.id.note);
            note.setText(words.under(bubble, holder.model()));
            note.setVisibility(note.length() == 0 ? View.GONE : View.VISIBLE);
        }
        return row;
    }
}
